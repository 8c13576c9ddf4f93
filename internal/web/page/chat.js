// Chat: a conversation, who answers it, what it costs and what was checked.
import { get, send, stream } from "./api.js";
import { badge } from "./badge.js";
import { field, h, notice, problem, select } from "./dom.js";
import { count, msat, npub, perToken, short } from "./format.js";

const talkName = "geist.conversation";
const wishName = "geist.wish";
const levels = [
  ["audit", "Audit", "Values are drawn after the provider has signed, opened, and computed again."],
  ["receipt", "Receipt only", "The provider signs. A proof can be demanded later."],
  ["replicate", "Replicate", "Audited, and a second provider computes the same. It costs twice."],
  ["none", "Nothing", "What comes is taken as it is."],
];

const stored = (name, other) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? other;
  } catch {
    return other;
  }
};

const keep = (name, v) => {
  try {
    localStorage.setItem(name, JSON.stringify(v));
  } catch {
    // Full or forbidden: the conversation lasts as long as the page.
  }
};

export async function chat(box, { gone }) {
  const talk = stored(talkName, []); // {role, content, account?, usage?, model?, stopped?}
  const wish = { model: "", provider: "", verify: "audit", max: 256, temperature: 0.7, seed: "", ...stored(wishName, {}) };
  box.append(h("h1", { class: "sr" }, "Chat"));
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", "aria-live": "polite", tabindex: 0 });
  const said = h("p", { class: "sr", role: "status" });
  const settings = h("form", { class: "settings", "aria-label": "Who answers, and how", onsubmit: (e) => e.preventDefault() });
  const input = h("textarea", { id: "say", rows: 2, placeholder: "Say something", "aria-label": "Your message", required: true });
  const sendButton = h("button", { class: "primary", type: "submit" }, "Send");
  const stopButton = h("button", { type: "button", hidden: true }, "Stop");
  const clear = h("button", { type: "button", class: "quiet" }, "Clear conversation");
  const form = h("form", { class: "say", "aria-label": "Your message" }, input, h("div", { class: "actions" }, sendButton, stopButton));
  box.append(h("div", { class: "talk" }, log, said, form), h("aside", { "aria-label": "Settings" }, settings));

  let models = [];
  let providers = [];

  const save = () => keep(talkName, talk);

  function empty() {
    if (log.querySelector("article")) return;
    log.replaceChildren(
      h("div", { class: "welcome" }, h("h2", {}, "Ask a model that others run"), h("p", {}, "Every answer comes with a price and a signed receipt. A proof shows that the values which were drawn are exactly those of the model you asked for, and you can check it here, on your machine.")),
    );
  }

  function foot(m) {
    const a = m.account;
    if (!a) return m.stopped ? h("footer", {}, h("span", { class: "badge plain" }, "stopped: what was delivered is paid, nothing was checked")) : undefined;
    const at = h("span", {}, badge(a, m.verdict));
    const parts = [h("span", { class: "price", title: "what this answer cost" }, msat(a.cost_msat))];
    if (m.usage) parts.push(h("span", {}, `${count(m.usage.prompt_tokens)} + ${count(m.usage.completion_tokens)} tokens`));
    parts.push(h("span", { title: npub(a.provider) }, `by ${short(npub(a.provider), 14)}`));
    if (m.model) parts.push(h("span", {}, m.model));
    const checkable = a.receipt && a.grade !== "reputation";
    if (checkable) parts.push(h("a", { href: "#/proof/" + a.receipt }, a.verified === "audit" || a.verified === "replicate" ? "Check the proof" : "Demand a proof"));
    else if (a.receipt) parts.push(h("span", { title: a.receipt }, `receipt ${short(a.receipt)}`));
    const f = h("footer", {}, at, h("span", { class: "facts" }, parts));
    if (checkable && !m.verdict && (a.verified === "audit" || a.verified === "replicate")) {
      send("POST", `/geist/v1/receipts/${a.receipt}/audit`)
        .then((v) => {
          m.verdict = { accepted: v.accepted, reason: v.reason, counts: v.counts && { Cells: v.counts.Cells, Embeddings: v.counts.Embeddings } };
          save();
          at.replaceChildren(badge(a, m.verdict));
        })
        .catch(() => {}); // the badge already says what the node said
    }
    return f;
  }

  function show(m) {
    log.querySelector(".welcome")?.remove();
    const text = h("div", { class: "text" }, m.content);
    const el = h("article", { class: m.role, "aria-label": m.role === "user" ? "You" : "Answer" }, m.reasoning ? h("details", {}, h("summary", {}, "Thoughts"), m.reasoning) : undefined, text, foot(m));
    log.append(el);
    return { el, text };
  }

  const down = () => (log.scrollTop = log.scrollHeight);

  function clearAll() {
    talk.length = 0;
    save();
    log.replaceChildren();
    empty();
    said.textContent = "The conversation is cleared.";
    input.focus();
  }
  clear.onclick = clearAll;

  // Settings.
  const model = h("select", {});
  const provider = h("select", {});
  const modelNote = h("p", { class: "note" });
  const verify = select(levels, wish.verify);
  const verifyNote = h("p", { class: "note" });
  const aboutLevel = () => (verifyNote.textContent = levels.find(([v]) => v === verify.value)[2]);
  const max = h("input", { type: "number", min: 1, max: 100000, step: 1, value: wish.max });
  const temperature = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: wish.temperature });
  const seed = h("input", { type: "number", step: 1, value: wish.seed, placeholder: "any" });
  const put = () => {
    Object.assign(wish, { model: model.value, provider: provider.value, verify: verify.value, max: max.value, temperature: temperature.value, seed: seed.value });
    keep(wishName, wish);
  };
  settings.append(
    field("Model", model),
    modelNote,
    field("Provider", provider),
    field("Check", verify),
    verifyNote,
    h("details", {}, h("summary", {}, "Length, temperature, seed"), field("Most tokens of an answer", max), field("Temperature", temperature, "0 always takes the likeliest token."), field("Seed", seed, "Equal questions with equal seeds get equal answers.")),
    clear,
  );
  settings.addEventListener("change", () => {
    aboutLevel();
    put();
  });
  aboutLevel();

  async function fillProviders() {
    provider.replaceChildren(h("option", { value: "" }, "the market decides"));
    if (!model.value) return;
    try {
      const r = await get("/geist/v1/providers?model=" + encodeURIComponent(model.value));
      providers = r.providers.filter((p) => p.place > 0);
    } catch {
      providers = [];
    }
    for (const p of providers) {
      const text = `${p.place}. ${p.own ? "this node" : short(p.npub, 10)}, ${perToken(p.ask.output_msat_per_million)} msat/token`;
      provider.append(h("option", { value: p.provider }, text));
    }
    provider.value = providers.some((p) => p.provider === wish.provider) ? wish.provider : "";
  }

  function aboutModel() {
    const m = models.find((x) => x.id === model.value)?.geist;
    modelNote.textContent = m ? `${m.grade || "no grade"} · ${m.quantisation || "?"} · context ${count(m.context)} · from ${perToken(m.price_completion_msat)} msat per token` : "";
  }

  async function fillModels() {
    models = (await get("/v1/models")).data;
    model.replaceChildren(...models.map((m) => h("option", { value: m.id }, m.id)));
    if (models.some((m) => m.id === wish.model)) model.value = wish.model;
    else if (models.length) model.value = (models.find((m) => m.geist.grade !== "reputation") ?? models[0]).id;
    aboutModel();
    await fillProviders();
    sendButton.disabled = models.length === 0;
    if (!models.length) log.append(notice("plain", "No model is on offer yet", "Offer one of your own, or wait until the relays know one.", h("p", { class: "actions" }, h("a", { class: "button", href: "#/serve" }, "Offer a model"), h("button", { onclick: (e) => (e.target.closest(".notice").remove(), start()) }, "Look again"))));
  }
  model.onchange = () => {
    aboutModel();
    fillProviders();
  };

  // Asking.
  let running = null;
  async function ask() {
    const mine = { role: "assistant", content: "" };
    const { el, text } = show(mine);
    el.classList.add("live");
    log.setAttribute("aria-busy", "true");
    running = new AbortController();
    gone.addEventListener("abort", () => running?.abort());
    sendButton.hidden = true;
    stopButton.hidden = false;
    const q = {
      model: model.value,
      stream: true,
      stream_options: { include_usage: true },
      verify: verify.value,
      max_tokens: Number(max.value) || 256,
      temperature: Number(temperature.value),
      messages: talk.filter((m) => m.content !== "").map(({ role, content }) => ({ role, content })),
    };
    if (seed.value !== "") q.seed = Number(seed.value);
    if (provider.value) q.provider = { only: [provider.value] };
    try {
      await stream(q, running.signal, (v) => {
        const d = v.choices?.[0]?.delta;
        if (d?.content) {
          const low = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
          mine.content += d.content;
          text.append(d.content);
          if (low) down();
        }
        if (d?.reasoning_content) mine.reasoning = (mine.reasoning ?? "") + d.reasoning_content;
        if (v.geist) mine.account = v.geist;
        if (v.usage) mine.usage = v.usage;
        mine.model = v.model;
      });
      said.textContent = "The answer is complete.";
    } catch (e) {
      if (e.name === "AbortError") {
        mine.stopped = true;
        said.textContent = "Stopped.";
      } else if (!gone.aborted) {
        const again = h("button", {}, "Ask again");
        const note = problem(e, again, e.code === "context_length_exceeded" ? h("button", { onclick: clearAll }, "Clear conversation") : undefined);
        again.onclick = () => {
          note.remove();
          if (talk.at(-1)?.role === "assistant") talk.pop();
          el.remove();
          ask();
        };
        log.append(note);
      }
    } finally {
      running = null;
      log.removeAttribute("aria-busy");
      stopButton.hidden = true;
      sendButton.hidden = false;
    }
    if (mine.content || mine.account) {
      talk.push(mine);
      save();
      el.classList.remove("live");
      const f = foot(mine);
      if (f) el.append(f);
    } else el.remove();
    down();
    if (!gone.aborted) input.focus();
  }
  stopButton.onclick = () => running?.abort();

  form.onsubmit = (e) => {
    e.preventDefault();
    const content = input.value.trim();
    if (!content || running || !model.value) return;
    put();
    log.querySelectorAll(".notice").forEach((n) => n.remove());
    const m = { role: "user", content };
    talk.push(m);
    save();
    show(m);
    input.value = "";
    down();
    ask();
  };
  input.onkeydown = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
      e.preventDefault();
      form.requestSubmit();
    }
  };

  async function start() {
    try {
      await fillModels();
    } catch (e) {
      if (!gone.aborted) log.append(problem(e, h("button", { onclick: (x) => (x.target.closest(".notice").remove(), start()) }, "Try again")));
    }
  }

  for (const m of talk) show(m);
  empty();
  down();
  await start();
}
