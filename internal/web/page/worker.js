// The verifier, away from the page's thread. In come questions with an id, out
// go {id, answer, ms} or {id, error}.
import { run } from "./go.js";

let ready;

const asks = {
  /** a verdict on a proof, with a picture of a cell if one is named. */
  verify: (q) => JSON.parse(globalThis.geistVerify(q.run, q.ghost, q.proof, q.cell ?? -1)),

  /** the hash of a leaf. */
  hash: (q) => globalThis.geistHashLeaf(q.bytes),
};

onmessage = async ({ data: q }) => {
  try {
    ready ??= run(fetch(new URL("verify.wasm", import.meta.url)));
    await ready;
    const begin = performance.now();
    const answer = asks[q.ask](q);
    postMessage({ id: q.id, answer, ms: performance.now() - begin });
  } catch (e) {
    postMessage({ id: q.id, error: String(e?.message ?? e) });
  }
};
