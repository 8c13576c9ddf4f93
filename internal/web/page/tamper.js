// Tampering by hand: one value of the proof or of what belongs to it is changed,
// and the verifier is asked again.
import { h, field } from "./dom.js";
import { bytes } from "./format.js";

const text = { enc: new TextEncoder(), dec: new TextDecoder() };
const hex = (b) => b.toString(16).padStart(2, "0");
const headBytes = 26; // of a proof: magic and size (docs/spec/audit.md)

/** parts says what can be altered in files, with the value it has. */
function parts(files, verdict) {
  const run = JSON.parse(text.dec.decode(files.run));
  const price = run.receipt.tags.find((t) => t[0] === "price");
  const hashes = verdict.bytes?.hashes ?? 0;
  const region = (i) => (i < headBytes ? "the head" : i < files.proof.length - hashes ? "an opened value" : "a hash of a tree");
  return { run, price, region, hashes };
}

/**
 * tamper makes the form. changed is called with altered files, or with the
 * untouched ones; what tells in words which value it was.
 */
export function tamper(files, verdict, changed) {
  const { run, price, region, hashes } = parts(files, verdict);
  const rows = [];

  const altered = (edit) => {
    const copy = structuredClone(run);
    edit(copy);
    return { ...files, run: text.enc.encode(JSON.stringify(copy)) };
  };
  const flipped = (name, i, v) => {
    const b = files[name].slice();
    b[i] = v;
    return { ...files, [name]: b };
  };

  function entry(name, value, read, apply, where, note) {
    const input = h("input", { value: value(), autocomplete: "off", spellcheck: "false", ...read.props });
    const back = h("button", { type: "button", class: "quiet", hidden: true }, "Put back");
    const r = { input, back, put: () => (input.value = value()) };
    const update = () => {
      const v = read.parse(input.value);
      input.setAttribute("aria-invalid", v === undefined);
      if (v === undefined) return;
      for (const other of rows) {
        if (other !== r) other.put();
        other.back.hidden = true;
      }
      const same = String(v) === String(read.parse(value()));
      back.hidden = same;
      changed(same ? files : apply(v), same ? "" : `${name()}: ${value()} → ${input.value}`);
    };
    input.oninput = update;
    back.onclick = () => {
      input.value = value();
      update();
      input.focus();
    };
    r.update = update;
    rows.push(r);
    const f = field(note.label, input, note.text);
    return h("div", { class: "alter" }, where, f, back);
  }

  const whole = { props: { inputmode: "numeric", pattern: "[0-9]+" }, parse: (v) => (/^[0-9]{1,15}$/.test(v) ? Number(v) : undefined) };
  const byte = { props: { maxlength: 2, pattern: "[0-9a-fA-F]{2}", class: "mono" }, parse: (v) => (/^[0-9a-f]{2}$/i.test(v) ? parseInt(v, 16) : undefined) };

  /** which is a control for an index that an entry uses. */
  function which(label, most, start, moved) {
    const input = h("input", { type: "number", min: 0, max: most - 1, value: start, step: 1 });
    const out = { at: () => Math.min(most - 1, Math.max(0, Math.trunc(Number(input.value)) || 0)), input, el: field(label, input) };
    input.oninput = () => moved(out.at());
    return out;
  }

  const list = [];
  const answer = run.answer.length;
  if (answer) {
    let e;
    const k = which("Which", answer, Math.floor(answer / 2), () => e.put());
    const el = entry(() => `token ${k.at()} of the answer`, () => String(run.answer[k.at()]), whole, (v) => altered((r) => (r.answer[k.at()] = v)), k.el, { label: "Token of the answer" });
    e = rows.at(-1);
    list.push(["A token of the answer", el]);
  }
  if (price) list.push(["The price in the receipt", entry(() => "the price", () => price[1], whole, (v) => altered((r) => (r.receipt.tags.find((t) => t[0] === "price")[1] = String(v))), undefined, { label: "Price, msat" })]);
  {
    let e;
    const said = h("small", { "aria-live": "polite" });
    const tell = () => (said.textContent = `${bytes(files.proof.length)}; this one is in ${region(k.at())}`);
    const k = which("Which", files.proof.length, headBytes + 8, () => (e.put(), tell()));
    const go = (label, i) => h("button", { type: "button", class: "quiet", onclick: () => ((k.input.value = i), e.put(), tell(), e.input.focus()) }, label);
    const el = entry(() => `byte ${k.at()} of the proof`, () => hex(files.proof[k.at()]), byte, (v) => flipped("proof", k.at(), v), k.el, { label: "Byte of the proof, hex" });
    e = rows.at(-1);
    tell();
    list.push(["A byte of the proof", el, h("p", { class: "jump" }, said, " ", go("an opened value", headBytes + 8), hashes ? go("a hash", files.proof.length - 20) : undefined, go("the head", 14))]);
  }
  {
    let e;
    const k = which("Which", files.ghost.length, Math.floor(files.ghost.length / 2), () => e.put());
    const el = entry(() => `byte ${k.at()} of the Ghost file`, () => hex(files.ghost[k.at()]), byte, (v) => flipped("ghost", k.at(), v), k.el, { label: "Byte of the Ghost file, hex" });
    e = rows.at(-1);
    list.push(["A byte of the model's Ghost file", el]);
  }
  list.push(["How many cells the asker demanded", entry(() => "the cells demanded", () => String(run.challenge.cells), whole, (v) => altered((r) => (r.challenge.cells = v)), undefined, { label: "Cells" })]);

  const reset = h("button", { type: "button" }, "Put everything back");
  reset.onclick = () => {
    for (const r of rows) {
      r.put();
      r.back.hidden = true;
    }
    changed(files, "");
  };
  return h("section", { class: "tamper", "aria-label": "Tamper" }, h("h2", {}, "Tamper"), h("p", { class: "lead" }, "Change one value by hand and see whether the proof still stands. Only this page is asked; nothing is sent."), h("div", { class: "alters" }, list.map(([name, ...els]) => h("fieldset", {}, h("legend", {}, name), els))), h("p", { class: "actions" }, reset));
}
