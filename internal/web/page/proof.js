// Proof: the proof of an answer, checked in this page by the verifier as
// WebAssembly, drawn, and tampered with.
import { bytesOf, get, Problem, send } from "./api.js";
import { words } from "./badge.js";
import { field, h, notice, problem, select } from "./dom.js";
import { bytes, chance, count, msat, plural, short, when } from "./format.js";
import { draw, story } from "./picture.js";
import { tamper } from "./tamper.js";
import { verify } from "./verifier.js";

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

  const receipts = (await get("/geist/v1/receipts")).receipts;
  if (gone.aborted) return;
  pick.append(h("option", { value: "" }, receipts.length ? "choose one" : "none yet"));
  for (const e of receipts) pick.append(h("option", { value: e.receipt }, `${when(e.at)} · ${e.model} · ${plural(e.answer_tokens, "token")} · ${msat(e.paid_msat)} · ${short(e.receipt, 6)}`));

  pick.onchange = () => {
    history.replaceState(null, "", pick.value ? "#/proof/" + pick.value : "#/proof");
    load(pick.value);
  };
  open.onchange = async () => {
    try {
      const list = await Promise.all([...open.files].map(async (f) => new Uint8Array(await f.arrayBuffer())));
      pick.value = "";
      await show(sort(list));
    } catch (e) {
      bar.hidden = true;
      result.replaceChildren(problem(e));
    }
  };

  async function load(id) {
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
      const [run, ghost] = await Promise.all([bytesOf(base + "/run"), bytesOf(base + "/ghost")]);
      let proof;
      try {
        proof = await bytesOf(base + "/proof");
      } catch (err) {
        if (!(err instanceof Problem) || err.status !== 404) throw err;
        const ask = h("button", { class: "primary" }, "Demand the proof");
        ask.onclick = async () => {
          ask.disabled = true;
          ask.textContent = "The provider computes …";
          try {
            await send("POST", base + "/audit");
            await load(id);
          } catch (e) {
            result.replaceChildren(problem(e, h("button", { onclick: () => load(id) }, "Try again")));
          }
        };
        result.replaceChildren(notice("plain", "Receipt only", "No proof of this answer was demanded yet. The provider must still be able to give one: it signed the root of everything it computed.", h("p", { class: "actions" }, ask)));
        return;
      }
      await show({ run, ghost, proof }, id);
    } catch (e) {
      if (!gone.aborted) result.replaceChildren(problem(e, h("button", { onclick: () => load(id) }, "Try again")));
    }
  }

  function tell({ verdict: v, ms }, what) {
    const w = words({ grade: v.grade, verified: "audit" }, v);
    bar.hidden = false;
    bar.className = "verdict " + (v.accepted ? "good" : "bad");
    bar.replaceChildren(
      h("strong", {}, v.accepted ? "Accepted" : "Refused"),
      h("span", { class: "what" }, v.accepted ? w.text : v.reason),
      v.accepted ? undefined : h("span", { class: "meaning" }, (what ? `You changed ${what}. ` : "") + why(v)),
      h("span", { class: "ms" }, `checked here in ${count(Math.max(1, Math.round(ms)))} ms`),
    );
  }

  async function show(files, id) {
    result.replaceChildren(h("p", { class: "wait" }, "Checking …"));
    const whole = await verify(files, 0);
    if (gone.aborted) return;
    const v = whole.verdict;
    tell(whole);
    if (!v.accepted) {
      result.replaceChildren(notice("bad", "This proof does not stand", why(v)));
      return;
    }
    let picture, size = v.challenge.cells;
    let now = v; // the verdict on what is shown, altered or not
    const frame = h("div", { class: "scroll frame", tabindex: 0, role: "region", "aria-label": "Picture of a cell" });
    const words = h("div", { "aria-live": "polite" });
    const cell = h("input", { type: "number", min: 1, max: size, value: 1, step: 1 });
    const about = h("p", { class: "note" });
    const cells = new Map(); // of those seen: number → explanation

    async function see(n) {
      n = Math.min(size, Math.max(1, n || 1)) - 1;
      const x = cells.get(n) ?? (await verify(files, n)).verdict.explanation;
      cells.set(n, x);
      if (gone.aborted || !x) return;
      about.textContent = `Cell ${n + 1} of ${size}: position ${x.position} (token ${x.token}), layer ${x.layer}. ${plural(x.steps.length, "relation")} computed again, ${plural(x.steps.reduce((k, st) => k + st.opened.length, 0), "leaf", "leaves")} opened.`;
      picture = draw(x, (c) => words.replaceChildren(story(x, c)));
      frame.replaceChildren(picture.svg);
      picture.pick(picture.first);
      picture.mark(now);
    }
    const step = (d) => () => {
      cell.value = Math.min(size, Math.max(1, Number(cell.value) + d));
      see(Number(cell.value));
    };
    cell.onchange = () => see(Number(cell.value));
    cells.set(0, v.explanation);

    /** failing shows the cell in which a relation fails, if it is one. */
    async function failing(verdict, alive) {
      if (!(verdict.position >= 0) || !(verdict.layer >= 0)) return;
      for (let n = 0; n < size && alive(); n++) {
        const x = cells.get(n) ?? (await verify(files, n)).verdict.explanation;
        cells.set(n, x);
        if (x?.position === verdict.position && x.layer === verdict.layer) {
          if (!alive()) return;
          cell.value = n + 1;
          return see(n + 1);
        }
      }
    }

    let turn = 0;
    const form = tamper(files, v, async (altered, what) => {
      const mine = ++turn;
      try {
        const r = await verify(altered);
        if (mine !== turn || gone.aborted) return;
        now = r.verdict;
        tell(r, what);
        picture?.mark(now);
        if (!now.accepted) await failing(now, () => mine === turn && !gone.aborted);
      } catch (e) {
        if (mine === turn) bar.replaceChildren(problem(e));
      }
    });

    const save = (name, b) => {
      const url = URL.createObjectURL(new Blob([b]));
      return h("a", { href: url, download: `${short(v.receipt, 12).replace("…", "-")}.${name}` }, `${name === "run" ? "run file" : name === "ghost" ? "Ghost file" : "proof"} (${bytes(b.length)})`);
    };
    const sentences = (list) => h("ul", {}, list.map((t) => h("li", {}, t)));
    const fact = (k, val, more) => h("div", {}, h("dt", {}, k), h("dd", { title: more }, val));
    result.replaceChildren(
      h("dl", { class: "facts receipt" }, fact("Model", v.model_name, v.model), fact("Signed", when(Date.parse(v.signed))), fact("Provider", short(v.provider, 12), v.provider), fact("Tokens", `${count(v.prompt_tokens)} + ${count(v.answer_tokens)}`), fact("Price", msat(v.price_msat)), fact("Receipt", short(v.receipt, 12), v.receipt), fact("Drawn from", `${count(v.positions)} positions × ${count(v.layers)} layers`), fact("Proof", `${bytes(v.proof_bytes)}, ${bytes(v.bytes.rows)} of it weights`)),
      h("section", { "aria-label": "Picture" }, h("div", { class: "row between" }, h("h2", {}, "From a row to the root"), h("div", { class: "stepper" }, h("button", { onclick: step(-1), "aria-label": "Previous cell" }, "←"), field("Cell", cell), h("button", { onclick: step(1), "aria-label": "Next cell" }, "→"))), about, frame, words),
      form,
      h("section", {}, h("h2", {}, "What was checked"), sentences(v.checked), h("h2", {}, "What was not"), sentences(v.not_checked)),
      h("section", {}, h("h2", {}, "How likely a forgery would have been missed"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Odds" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "If"), h("th", { scope: "col", class: "num" }, "missed"))), h("tbody", {}, v.odds.map((o) => h("tr", {}, h("td", {}, o.if), h("td", { class: "num" }, chance(o.missed)))))))),
      h("p", { class: "note" }, "Check it elsewhere with “geist verify”: ", ["run", "ghost", "proof"].flatMap((k) => [save(k, files[k]), " "])),
    );
    await see(1);
    if (id) pick.value = id;
  }

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
