// The page: which view is shown, the state of the node, the dialog for a key.
import { get, onKey, setKey } from "./api.js";
import { h, problem } from "./dom.js";
import { plural, short } from "./format.js";
import { chat } from "./chat.js";
import { proof } from "./proof.js";
import { providers } from "./providers.js";
import { wallet } from "./wallet.js";
import { serve } from "./serve.js";

const views = { chat, proof, providers, wallet, serve };
const main = document.getElementById("main");
let leave = () => {}; // ends what the shown view has under way

async function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  if (location.hash === "#main") return;
  const view = views[name] ?? chat;
  const shown = views[name] ? name : "chat";
  leave();
  leave = () => {};
  for (const a of document.querySelectorAll(".bar nav a")) {
    if (a.hash === "#/" + shown) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = shown[0].toUpperCase() + shown.slice(1) + " – geist";
  const box = h("div", { class: "view " + shown });
  const first = !main.querySelector(".view");
  main.replaceChildren(box);
  if (!first) main.focus({ preventScroll: true });
  scrollTo(0, 0);
  const gone = new AbortController();
  leave = () => gone.abort();
  try {
    await view(box, { args: rest.map(decodeURIComponent), gone: gone.signal });
  } catch (e) {
    if (gone.signal.aborted) return;
    box.append(problem(e, h("button", { onclick: route }, "Try again")));
  }
}

async function status() {
  const at = document.getElementById("node");
  try {
    const n = await get("/geist/v1/node");
    const relays = n.relays.filter((r) => r.connected).length;
    at.className = "node up";
    at.textContent = `${plural(n.models.length, "model")} · ${relays} of ${plural(n.relays.length, "relay")}`;
    at.title = n.relays.filter((r) => !r.connected).map((r) => `${r.url}: ${r.error || "no answer yet"}. ${r.next}`).join("\n");
    document.getElementById("who").textContent = `provides as ${short(n.provider, 14)}, asks as ${short(n.asker, 14)}`;
  } catch {
    at.className = "node down";
    at.textContent = "the node is not there";
  }
}

onKey((wrong) => {
  const d = document.getElementById("key");
  if (d.open) return new Promise((yes) => d.addEventListener("close", () => yes(d.returnValue === "yes"), { once: true }));
  document.getElementById("key-note").textContent = wrong ? "The key was not the right one." : "It was chosen when the node was started.";
  const value = document.getElementById("key-value");
  value.value = "";
  d.returnValue = "no";
  d.showModal();
  return new Promise((yes) => {
    d.addEventListener(
      "close",
      () => {
        const given = d.returnValue === "yes" && value.value !== "";
        if (given) setKey(value.value.trim());
        yes(given);
      },
      { once: true },
    );
  });
});

addEventListener("hashchange", route);
route();
status();
setInterval(() => document.visibilityState === "visible" && status(), 10000);
