// Serve: what this node offers, and what it earns with it.
import { get, send } from "./api.js";
import { field, h, notice, problem, select } from "./dom.js";
import { count, msat, perToken, seconds, short } from "./format.js";

export async function serve(box, { gone }) {
  const list = h("div", { class: "serving" });
  const totals = h("dl", { class: "tiles" });
  const said = h("div", { "aria-live": "polite" });
  const formBox = h("div", {});
  box.append(h("h1", {}, "Serve"), h("p", { class: "lead" }, "Offer a model that is on this machine. Your offer is signed with this node's key and told to the relays; whoever asks pays you by the token."), totals, h("h2", {}, "On offer"), list, said, h("h2", {}, "Offer another model"), formBox);

  const meter = (name, v, most, text) => h("div", { class: "meter" }, h("span", {}, name), h("meter", { min: 0, max: most || 1, value: v, "aria-label": name }), h("span", { class: "num" }, text));

  function card(x) {
    const drop = h("button", { class: "danger" }, "Withdraw");
    drop.onclick = async () => {
      if (drop.dataset.sure !== "yes") {
        drop.dataset.sure = "yes";
        drop.textContent = "Really withdraw?";
        setTimeout(() => {
          if (!drop.isConnected) return;
          delete drop.dataset.sure;
          drop.textContent = "Withdraw";
        }, 5000);
        return;
      }
      drop.disabled = true;
      try {
        show(await send("DELETE", "/geist/v1/serve/" + encodeURIComponent(x.id)), true);
        said.replaceChildren(notice("good", `${x.name} is no longer on offer`, "Answers that were under way are finished."));
      } catch (e) {
        drop.disabled = false;
        said.replaceChildren(problem(e));
      }
    };
    return h(
      "article",
      { class: "card", "aria-label": x.name },
      h(
        "div",
        { class: "body" },
        h("div", { class: "row between" }, h("h3", {}, x.name, " ", x.quantisation === "unknown" ? undefined : h("span", { class: "tag" }, x.quantisation), h("span", { class: "tag " + x.grade }, x.grade === "reputation" ? "reputation only" : x.grade)), drop),
        h("p", { class: "note" }, `${perToken(x.price_prompt_msat_per_million)} msat per token read, ${perToken(x.price_answer_msat_per_million)} written · context ${count(x.context)} · ${short(x.id, 14)}${x.upstream ? " · runs at " + x.upstream : ""} · for ${seconds((Date.now() - Date.parse(x.since)) / 1000)}`),
        meter("Answering", x.running, x.sessions, `${count(x.running)} of ${count(x.sessions)}`),
        meter("Waiting", x.waiting, Math.max(4, x.waiting), count(x.waiting)),
        meter("Memory in use", x.kv_cache_usage_ratio, 1, `${Math.round(100 * x.kv_cache_usage_ratio)} %`),
      ),
    );
  }

  let last = "";
  function show(r, always) {
    const t = r.totals;
    const tile = (name, value, note) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("small", {}, note)));
    totals.replaceChildren(
      tile("Earned", msat(t.earned_msat ?? 0), "since the node started"),
      tile("Answers", count(t.settled ?? 0), `${count(t.failed ?? 0)} failed, ${count(t.refused ?? 0)} refused`),
      tile("Tokens", count(t.answer_tokens ?? 0), `${count(t.prompt_tokens ?? 0)} read`),
      tile("Proofs given", count(t.proofs ?? 0), "to whoever asked"),
    );
    // While somebody is about to withdraw, the cards stay.
    const now = JSON.stringify(r.serving.map((x) => [x.id, x.running, x.waiting, x.kv_cache_usage_ratio]));
    if (!always && (now === last || list.querySelector("[data-sure]") || list.contains(document.activeElement))) return;
    last = now;
    list.replaceChildren(...(r.serving.length ? r.serving.map(card) : [notice("plain", "Nothing is on offer", r.provides ? "Choose a model below." : "This node takes no jobs: start it with an address for them (--provide).")]));
  }

  const r = await get("/geist/v1/serve");
  show(r, true);

  if (!r.provides) {
    formBox.append(notice("plain", "This node only asks", "Start it with --provide ADDRESS to offer models."));
    return;
  }
  const model = select([...r.installed.map((m) => [m, m]), ["", "one that another server runs"]], r.installed[0] ?? "");
  const price = (v) => h("input", { type: "number", min: 0, max: 1e6, step: "any", value: v, required: true });
  const [prompt, answer] = [price(1), price(2)];
  const sessions = h("input", { type: "number", min: 1, max: 1024, step: 1, value: 4, required: true });
  const name = h("input", { type: "text", maxlength: 128, placeholder: "as the file says", autocomplete: "off" });
  const upstream = h("input", { type: "url", placeholder: "http://127.0.0.1:8080", autocomplete: "off" });
  const there = h("input", { type: "text", autocomplete: "off" });
  const elsewhere = h("div", { class: "grid" }, field("Its address", upstream, "An OpenAI-compatible server. What it answers can be signed for, and not checked: reputation only."), field("The model's name there", there));
  const button = h("button", { class: "primary" }, "Offer");
  const look = () => {
    elsewhere.hidden = model.value !== "";
    upstream.required = there.required = model.value === "";
  };
  model.onchange = look;
  look();
  const form = h("form", { class: "offer" }, field("Model", model, r.installed.length ? "" : "No model file is here yet; “geist models add FILE” adds one."), elsewhere, h("div", { class: "grid" }, field("Price of a token read, msat", prompt), field("Price of a token written, msat", answer), field("Answers at once", sessions), field("Name on the market", name)), h("p", { class: "actions" }, button));
  form.onsubmit = async (e) => {
    e.preventDefault();
    button.disabled = true;
    said.replaceChildren(notice("plain", "Loading the model …", "Large ones take a while."));
    try {
      const offer = { model: model.value || there.value, price_prompt: Math.round(prompt.value * 1e6), price_answer: Math.round(answer.value * 1e6), sessions: Number(sessions.value) };
      if (name.value) offer.name = name.value;
      if (model.value === "") offer.upstream = upstream.value;
      show(await send("POST", "/geist/v1/serve", offer), true);
      said.replaceChildren(notice("good", `${offer.name ?? offer.model} is on offer`, "The relays are being told."));
    } catch (err) {
      said.replaceChildren(problem(err));
    }
    button.disabled = false;
  };
  formBox.append(form);
  const timer = setInterval(() => document.visibilityState === "visible" && get("/geist/v1/serve").then((x) => gone.aborted || show(x)).catch(() => {}), 1500);
  gone.addEventListener("abort", () => clearInterval(timer));
}
