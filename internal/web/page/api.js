// The node's API, and what its errors mean for a person.

const keyName = "geist.key";
let askKey; // shows a dialog for a key; true: there is one now

export const onKey = (f) => (askKey = f);
export const setKey = (k) => (k ? sessionStorage.setItem(keyName, k) : sessionStorage.removeItem(keyName));
const key = () => sessionStorage.getItem(keyName);

const advice = {
  insufficient_quota: "Allow more for one request when you start the node (--spend), or ask for a shorter answer.",
  model_not_found: "Choose another model, or offer this one yourself under Serve.",
  context_length_exceeded: "Clear the conversation or allow fewer tokens for the answer.",
  unavailable: "Wait a few seconds, or let the market decide who answers.",
  provider_failed: "Ask again: another provider will be tried, and nothing that was not delivered was paid.",
  answer_rejected: "The answer did not stand its check. Ask another provider; this one will be left out from now on.",
  demand_not_met: "Choose another provider, or let the market decide.",
  rate_limit_exceeded: "Too much at once. Wait a moment and ask again.",
  invalid_api_key: "This node demands a key. It was printed or chosen when the node was started.",
};

/** A Problem is an error with a title and advice. */
export class Problem extends Error {
  constructor(status, e) {
    super(e?.message || `The node answered with status ${status}.`);
    // Offers left out for a small context come as a demand that nobody meets.
    this.code = /context-too-small/.test(this.message) ? "context_length_exceeded" : (e?.code ?? "");
    this.status = status;
    this.title = { 401: "A key is needed", 402: "Too dear", 429: "Too much at once", 503: "Nobody can answer now" }[status] ?? "That did not work";
    this.advice = advice[this.code];
  }
}

function away() {
  const p = new Problem(0, { message: "The node does not answer." });
  p.title = "The node is not there";
  p.advice = "Look whether it still runs; “geist up” starts it. Then try again.";
  return p;
}

/** call asks the node and gives the response, or throws a Problem. */
export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let r;
  try {
    r = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw away();
  }
  if (r.status === 401 && askKey && (await askKey(Boolean(key())))) return call(path, options);
  if (!r.ok) {
    const body = await r.json().catch(() => null);
    throw new Problem(r.status, body?.error);
  }
  return r;
}

export const get = async (path) => (await call(path)).json();
export const bytesOf = async (path) => new Uint8Array(await (await call(path)).arrayBuffer());
export const send = async (method, path, body) => (await call(path, { method, headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) })).json();

/** stream puts a question and calls each with every piece of the answer. */
export async function stream(question, signal, each) {
  const r = await call("/v1/chat/completions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal });
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (e) {
      if (e.name === "AbortError") throw e;
      throw away();
    }
    rest += piece.value ?? "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const v = JSON.parse(line.slice(6));
      if (v.error) throw new Problem(502, v.error);
      each(v);
    }
    if (piece.done) throw new Problem(502, { message: "The answer broke off.", code: "provider_failed" });
  }
}
