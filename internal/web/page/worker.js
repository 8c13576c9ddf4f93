// The verifier, away from the page's thread: {id, run, ghost, proof, cell} in,
// {id, verdict} or {id, error} out.
import { run } from "./go.js";

let ready;

onmessage = async ({ data: q }) => {
  try {
    ready ??= run(fetch(new URL("verify.wasm", import.meta.url)));
    await ready;
    const begin = performance.now();
    const verdict = JSON.parse(globalThis.geistVerify(q.run, q.ghost, q.proof, q.cell ?? -1));
    postMessage({ id: q.id, verdict, ms: performance.now() - begin });
  } catch (e) {
    postMessage({ id: q.id, error: String(e?.message ?? e) });
  }
};
