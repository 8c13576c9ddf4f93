// Asks the verifier in its worker. Files are {run, ghost, proof}, each bytes.

let worker, next = 1;
const waiting = new Map();

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    const w = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) {
      // A program that ended answers no more: the next question starts another.
      stop(new Error(data.error));
      w?.no(new Error(data.error));
    } else w?.yes(data);
  };
  worker.onerror = (e) => stop(new Error(e.message || "the verifier does not start"));
}

function stop(err) {
  worker?.terminate();
  worker = undefined;
  for (const w of waiting.values()) w.no(err);
  waiting.clear();
}

function ask(q) {
  if (!worker) start();
  return new Promise((yes, no) => {
    const id = next++;
    waiting.set(id, { yes, no });
    worker.postMessage({ id, ...q });
  });
}

/** verify judges a proof; with a cell, its picture is in verdict.explanation. */
export async function verify(files, cell = -1) {
  const { answer, ms } = await ask({ ask: "verify", ...files, cell });
  return { verdict: answer, ms };
}

/** hash is that of a leaf. */
export const hash = async (bytes) => (await ask({ ask: "hash", bytes })).answer;
