// node verdicts.js WASM_EXEC VERIFIER LIST: runs the verifier for each line of
// LIST, the paths of a run file, a Ghost file and a proof with tabs between, and
// writes each verdict as one line of JSON.
"use strict";
const fs = require("fs");
const [, , exec, verifier, list] = process.argv;
globalThis.fs = fs;
globalThis.path = require("path");
require(exec);
const go = new Go();
WebAssembly.instantiate(fs.readFileSync(verifier), go.importObject).then(({ instance }) => {
	go.run(instance);
	for (const line of fs.readFileSync(list, "utf8").split("\n")) {
		if (line === "") continue;
		const files = line.split("\t").map((f) => new Uint8Array(fs.readFileSync(f)));
		process.stdout.write(JSON.stringify(geistVerify(...files)) + "\n");
	}
	// The verifier waits for calls for ever; what was written must be through the pipe before it ends.
	process.stdout.write("", () => process.exit(0));
}).catch((err) => {
	console.error(err);
	process.exit(1);
});
