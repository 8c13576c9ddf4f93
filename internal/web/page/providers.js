// Providers: who is asked first for a model, and why the others are not.
import { get } from "./api.js";
import { field, h, notice, select } from "./dom.js";
import { count, msat, perToken, plural, short, speed } from "./format.js";

const reasons = {
  first: "asked first", exploration: "asked first: newcomers have a share", "newcomer-turn": "a newcomer's turn", order: "others were named before",
  newcomer: "too little is known", unreliable: "fails too often", "cooling-down": "failed just now", dearer: "dearer", slower: "slower",
  "less-reliable": "less reliable", tie: "as good as the first", "failed-audit": "failed an audit", "no-capacity": "full", "no-rail": "no common way to pay",
  "too-slow": "too slow", "context-too-small": "context too small", "price-above-max": "above your limit", "cost-above-max": "above your limit",
};

function card(p) {
  const a = p.ask;
  const st = p.standing;
  const fact = (name, value, more) => h("div", {}, h("dt", {}, name), h("dd", { title: more }, value));
  const audits = p.audits_passed + p.audits_failed;
  return h(
    "li",
    { class: "card" + (p.place === 0 ? " out" : p.place === 1 ? " first" : "") },
    h("div", { class: "place", "aria-hidden": "true" }, p.place || "–"),
    h(
      "div",
      { class: "body" },
      h("h2", {}, h("span", { class: p.own ? "own" : "name", title: p.npub }, p.own ? "This node" : short(p.npub, 14)), h("span", { class: "tag" }, a.model_name), a.quantisation === "unknown" ? undefined : h("span", { class: "tag" }, a.quantisation), h("span", { class: "tag " + a.grade }, a.grade === "reputation" ? "reputation only" : a.grade)),
      h(
        "dl",
        { class: "facts" },
        fact("Price, msat per token", `${perToken(a.input_msat_per_million)} in, ${perToken(a.output_msat_per_million)} out`),
        fact("A request like yours", msat(p.cost_msat), "256 tokens of prompt and 256 of answer"),
        fact("Speed", st.tps_milli ? speed(st.tps_milli) : "not known", st.ttft_ms ? `${count(st.ttft_ms)} ms to the first token` : ""),
        fact("Audits here", audits ? `${p.audits_passed} passed, ${p.audits_failed} failed` : "none yet"),
        fact("Answers here", p.answers ? `${count(p.answers)}, ${count(p.failed)} failed` : "none yet"),
        fact("Reliability", `${Math.round(st.reliability_ppm / 1e4)} %`, st.newcomer ? "a newcomer: little is known" : ""),
        fact("Context", count(a.context)),
        fact("At once", count(a.capacity)),
      ),
      h("p", { class: "why" }, h("strong", {}, p.place ? `Place ${p.place}: ` : "Not asked: ", reasons[p.reason] ?? p.reason.replaceAll("-", " ")), ` – ${p.detail}.`),
      p.own && p.provider_hint ? h("p", { class: "hint" }, `What you can do: ${p.provider_hint}.`) : undefined,
    ),
  );
}

export async function providers(box, { args, gone }) {
  const models = (await get("/v1/models")).data.sort((a, b) => (a.geist.grade === "reputation") - (b.geist.grade === "reputation"));
  const names = models.map((m) => [m.id, `${m.id} (${plural(m.geist.providers, "provider")})`]);
  const pick = select([...names, ["", "all models"]], args[0] ?? names[0]?.[0] ?? "");
  const list = h("div", {});
  const away = h("div", { "aria-live": "polite" });
  box.append(h("h1", {}, "Providers"), h("p", { class: "lead" }, "Everybody who offers a model, in the order in which this node would ask them now. The order follows from signed offers and from what this node has seen itself; the same facts give the same order."), h("div", { class: "row" }, field("Model", pick)), away, list);
  let told = "";
  async function relays() {
    const out = (await get("/geist/v1/node")).relays.filter((r) => !r.connected && r.error);
    const now = JSON.stringify(out);
    if (gone.aborted || now === told) return;
    told = now;
    away.replaceChildren(...out.map((r) => notice("bad", `The relay ${r.url} cannot be reached`, `${r.error}. What you can do: ${r.next}. Offers that only it knows are missing here.`)));
  }
  async function show() {
    const r = (await get("/geist/v1/providers?model=" + encodeURIComponent(pick.value))).providers;
    if (gone.aborted) return;
    const of = pick.value && models.some((m) => m.id === pick.value) ? r.filter((p) => p.reason !== "wrong-model") : r;
    if (!of.length) return list.replaceChildren(notice("plain", "Nobody offers this model now", "Relays may still be answering; offers last a quarter of an hour.", h("p", { class: "actions" }, h("a", { class: "button", href: "#/serve" }, "Offer it yourself"))));
    list.replaceChildren(h("ol", { class: "cards", "aria-label": "Providers in order" }, of.map(card)));
  }
  pick.onchange = show;
  await show();
  await relays();
  const timer = setInterval(() => document.visibilityState === "visible" && Promise.all([show(), relays()]).catch(() => {}), 5000);
  gone.addEventListener("abort", () => clearInterval(timer));
}
