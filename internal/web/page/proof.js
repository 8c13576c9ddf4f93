// Proof: the proof of an answer, checked in this page by the verifier as
// WebAssembly, drawn, and tampered with.
import { bytesOf, get, send } from "./api.js";
import { words } from "./badge.js";
import { field, h, notice, problem, show as put } from "./dom.js";
import { bytes, chance, count, msat, npub, plural, short, when } from "./format.js";
import { draw, story } from "./picture.js";
import { tamper } from "./tamper.js";
import { hash, verify } from "./verifier.js";

const starts = (b, t) => b.length >= t.length && [...t].every((c, i) => b[i] === c.charCodeAt(0));

/** sort tells run file, Ghost file and proof apart by how they begin. */
function sort(list) {
  const files = {};
  for (const b of list) {
    const kind = starts(b, "geist proof ") ? "proof" : starts(b, "ghost") ? "ghost" : /^\s*\{/.test(new TextDecoder().decode(b.slice(0, 64))) ? "run" : null;
    if (!kind) throw new Error("A file begins neither as a run file, nor as a Ghost file, nor as a proof.");
    files[kind] = b;
  }
  const missing = [["run", "run file"], ["ghost", "Ghost file"], ["proof", "proof"]].filter(([k]) => !files[k]).map(([, name]) => name);
  if (missing.length) throw new Error(`Choose all three files at once; missing: ${missing.join(", ")}.`);
  return files;
}

const meaning = {
  "trace root": "The opened values no longer lead to the root that the provider signed.",
  weights: "A row of weights no longer lies under the root in the model's Ghost file.",
};

function why(v) {
  if (meaning[v.relation]) return meaning[v.relation];
  if (v.relation) return `The relation “${v.relation}” was computed again and does not hold.`;
  if (/sign|\bid\b/.test(v.reason)) return "The signature covers every byte of the receipt.";
  return "The files do not belong together any more.";
}

export async function proof(box, { args, gone }) {
  const result = h("div", { class: "result" });
  const bar = h("div", { class: "verdict", role: "status", hidden: true });
  const pick = h("select", {});
  const open = h("input", { type: "file", multiple: true, accept: ".run,.ghost,.proof,.json,application/octet-stream" });
  box.append(
    h("h1", {}, "Proof"),
    h("p", { class: "lead" }, "An answer's proof, checked here: the verifier runs in this page and needs neither the model nor the network."),
    h("div", { class: "row sources" }, field("An answer of yours", pick), field("Or files from disk", open, "run file, Ghost file and proof, together")),
    bar,
    result,
  );

  let receipts = [];
  let shown = 0; // counts what was asked to be shown; only the last is
  pick.onchange = () => {
    history.replaceState(null, "", pick.value ? "#/proof/" + pick.value : "#/proof");
    load(pick.value);
  };
  open.onchange = async () => {
    const mine = ++shown;
    try {
      const list = await Promise.all([...open.files].map(async (f) => new Uint8Array(await f.arrayBuffer())));
      pick.value = "";
      await show(sort(list), mine);
    } catch (e) {
      if (mine !== shown) return;
      bar.hidden = true;
      result.replaceChildren(problem(e));
    }
  };

  async function load(id) {
    const mine = ++shown;
    bar.hidden = true;
    result.replaceChildren();
    if (!id) return;
    const e = receipts.find((r) => r.receipt === id);
    if (e?.grade === "reputation") {
      result.replaceChildren(notice("plain", "Reputation only: nothing can be checked", "This answer came by way of a server that commits to nothing. The receipt shows who signed for it, and nothing about the model."));
      return;
    }
    const base = "/geist/v1/receipts/" + id;
    result.replaceChildren(h("p", { class: "wait" }, "Fetching the files …"));
    try {
      const { proof_bytes } = await get("/v1/receipts/" + id);
      if (!proof_bytes) {
        const ask = h("button", { class: "primary" }, "Demand the proof");
        ask.onclick = async () => {
          ask.disabled = true;
          ask.textContent = "The provider computes …";
          try {
            await send("POST", base + "/audit");
            if (mine === shown) await load(id);
          } catch (e) {
            if (mine === shown) result.replaceChildren(problem(e, h("button", { onclick: () => load(id) }, "Try again")));
          }
        };
        if (mine !== shown) return;
        result.replaceChildren(notice("plain", "Receipt only", "No proof of this answer was demanded yet. The provider must still be able to give one: it signed the root of everything it computed.", h("p", { class: "actions" }, ask)));
        return;
      }
      const [run, ghost, proof] = await Promise.all(["run", "ghost", "proof"].map((k) => bytesOf(`${base}/${k}`)));
      await show({ run, ghost, proof }, mine, id);
    } catch (e) {
      if (!gone.aborted && mine === shown) result.replaceChildren(problem(e, h("button", { onclick: () => load(id) }, "Try again")));
    }
  }

  function tell({ verdict: v, ms }, what, more) {
    const w = words({ grade: v.grade, verified: "audit" }, v);
    bar.hidden = false;
    bar.className = "verdict " + (v.accepted ? "good" : "bad");
    put(
      bar,
      h("strong", {}, v.accepted ? "Accepted" : "Refused"),
      h("span", { class: "what" }, v.accepted ? w.text : v.reason),
      v.accepted ? undefined : h("span", { class: "meaning" }, (what ? `You changed ${what}. ` : "") + why(v) + " ", more),
      h("span", { class: "ms" }, `checked here in ${count(Math.max(1, Math.round(ms)))} ms`),
    );
  }

  async function show(files, mine, id) {
    if (mine !== shown) return;
    result.replaceChildren(h("p", { class: "wait" }, "Checking …"));
    const whole = await verify(files, 0);
    if (gone.aborted || mine !== shown) return;
    const v = whole.verdict;
    tell(whole);
    if (!v.accepted) {
      result.replaceChildren();
      return;
    }
    const size = v.challenge.cells;
    let picture;
    let broken; // the leaf that was altered, if one was
    let now = v; // the verdict on what is shown, altered or not
    const frame = h("div", { class: "scroll frame", tabindex: 0, role: "region", "aria-label": "Picture of a cell" });
    const way = h("div", { class: "way" });
    const cell = h("input", { type: "number", min: 1, max: size, value: 1, step: 1 });
    const about = h("p", { class: "note" });
    const cells = [v.explanation]; // of those seen, by number
    const explain = async (n) => (cells[n] ??= (await verify(files, n)).verdict.explanation);

    let seen = 0;
    async function see(n) {
      n = Math.min(size, Math.max(1, Math.trunc(n) || 1)) - 1;
      const mine = ++seen;
      const x = await explain(n);
      if (gone.aborted || mine !== seen || !x) return;
      about.textContent = `Cell ${n + 1} of ${size}: position ${x.position} (token ${x.token}), layer ${x.layer}. ${plural(x.steps.length, "relation")} computed again. Choose an opened leaf to follow it to the receipt.`;
      picture = draw(x, (c) => {
        way.replaceChildren(story(x, c));
        form.leaf(c.item);
      });
      frame.replaceChildren(picture.svg);
      picture.mark(now, broken);
      picture.pick(picture.first);
    }
    const step = (d) => () => {
      cell.value = Math.min(size, Math.max(1, Number(cell.value) + d));
      see(Number(cell.value));
    };
    cell.onchange = () => see(Number(cell.value));

    /** failing shows the cell in which a relation fails, if the shown one is another. */
    async function failing(verdict, alive) {
      if (!(verdict.position >= 0) || !(verdict.layer >= 0)) return;
      const is = (x) => x?.position === verdict.position && x.layer === verdict.layer;
      if (is(cells[Number(cell.value) - 1])) return;
      for (let n = 0; n < size && alive(); n++) {
        if (is(await explain(n)) && alive()) {
          cell.value = n + 1;
          return see(n + 1);
        }
      }
    }

    let turn = 0;
    const form = tamper(files, v, async (altered, what, leaf) => {
      const mine = ++turn;
      const alive = () => mine === turn && !gone.aborted;
      try {
        const r = await verify(altered);
        // Floats stand packed in a proof, so that their leaf's hash is not that of its bytes there.
        const other = leaf && !leaf.packed && (await hash(altered.proof.slice(leaf.offset, leaf.offset + leaf.stored)));
        if (!alive()) return;
        now = r.verdict;
        broken = leaf;
        tell(r, what, other && ["The leaf's hash was ", h("code", {}, short(leaf.hash, 12)), " and is now ", h("code", {}, short(other, 12)), "."]);
        picture?.mark(now, broken);
        if (!now.accepted && !leaf) await failing(now, alive);
      } catch (e) {
        if (alive()) put(bar, problem(e));
      }
    });

    const save = (name, b) => {
      const url = URL.createObjectURL(new Blob([b]));
      return h("a", { href: url, download: `${short(v.receipt, 12).replace("…", "-")}.${name}` }, `${name === "run" ? "run file" : name === "ghost" ? "Ghost file" : "proof"} (${bytes(b.length)})`);
    };
    const sentences = (list) => h("ul", {}, list.map((t) => h("li", {}, t)));
    const fact = (k, val, more) => h("div", {}, h("dt", {}, k), h("dd", { title: more }, val));
    result.replaceChildren(
      form.el,
      h("section", { "aria-label": "Picture" }, h("div", { class: "row between" }, h("h2", {}, "From a row to the root"), h("div", { class: "stepper" }, h("button", { onclick: step(-1), "aria-label": "Previous cell" }, "←"), field("Cell", cell), h("button", { onclick: step(1), "aria-label": "Next cell" }, "→"))), about, frame, way),
      h("section", {}, h("h2", {}, "The receipt"),h("dl", { class: "facts receipt" }, fact("Model", v.model_name, v.model), fact("Signed", when(Date.parse(v.signed))), fact("Provider", short(npub(v.provider), 14), npub(v.provider)), fact("Tokens", `${count(v.prompt_tokens)} + ${count(v.answer_tokens)}`), fact("Price", msat(v.price_msat)), fact("Receipt", short(v.receipt, 12), v.receipt), fact("Drawn from", `${count(v.positions)} positions × ${count(v.layers)} layers`), fact("Proof", `${bytes(v.proof_bytes)}, ${bytes(v.bytes.rows)} of it weights`))),
      h("section", {}, h("h2", {}, "What was checked"), sentences(v.checked), h("h2", {}, "What was not"), sentences(v.not_checked)),
      h("section", {}, h("h2", {}, "How likely a forgery would have been missed"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Odds" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "If"), h("th", { scope: "col", class: "num" }, "missed"))), h("tbody", {}, v.odds.map((o) => h("tr", {}, h("td", {}, o.if), h("td", { class: "num" }, chance(o.missed)))))))),
      h("p", { class: "note" }, "Check it elsewhere with “geist verify”: ", ["run", "ghost", "proof"].flatMap((k) => [save(k, files[k]), " "])),
    );
    await see(1);
    if (id) pick.value = id;
  }

  receipts = (await get("/geist/v1/receipts")).receipts;
  if (gone.aborted) return;
  pick.append(h("option", { value: "" }, receipts.length ? "choose one" : "none yet"));
  for (const e of receipts) pick.append(h("option", { value: e.receipt }, `${when(e.at)} · ${e.model} · ${plural(e.answer_tokens, "token")} · ${msat(e.paid_msat)} · ${short(e.receipt, 6)}`));
  if (shown) return; // files were chosen meanwhile
  if (args[0]) {
    pick.value = args[0];
    await load(args[0]);
  } else if (receipts.length) {
    const known = receipts.find((r) => r.grade !== "reputation" && r.verdict === "passed");
    if (known) {
      pick.value = known.receipt;
      await load(known.receipt);
    }
  }
}
