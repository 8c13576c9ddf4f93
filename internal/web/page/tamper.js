// Tampering by hand: one value of the proof, or of what belongs to it, is changed
// and the verifier is asked again.
import { h, field, select } from "./dom.js";
import { bytes } from "./format.js";

const text = { enc: new TextEncoder(), dec: new TextDecoder() };
const hex = (b) => b.toString(16).padStart(2, "0");
export const headBytes = 26; // of a proof: its magic and size (docs/spec/audit.md)

const whole = { props: { inputmode: "numeric" }, parse: (v) => (/^[0-9]{1,15}$/.test(v) ? Number(v) : undefined) };
const byte = { props: { maxlength: 2 }, parse: (v) => (/^[0-9a-f]{2}$/i.test(v) ? parseInt(v, 16) : undefined) };

/**
 * tamper makes the form. changed(files, what) is called with altered files and
 * words for what was altered, or with the untouched ones and "". The result has
 * `el` and `leaf(item)`, which tells what leaf is chosen in the picture.
 */
export function tamper(files, verdict, changed) {
  const run = JSON.parse(text.dec.decode(files.run));
  const hashes = verdict.bytes?.hashes ?? 0;
  const region = (i) => (i < headBytes ? "the head" : i < files.proof.length - hashes ? "an opened value" : "a hash of a tree");
  const price = (r) => r.receipt.tags.find((t) => t[0] === "price");
  const edit = (f) => {
    const copy = structuredClone(run);
    f(copy);
    return { ...files, run: text.enc.encode(JSON.stringify(copy)) };
  };
  const put = (name, i, v) => {
    const b = files[name].slice();
    b[i] = v;
    return { ...files, [name]: b };
  };

  let leaf = null; // the item of a picture
  const targets = {
    leaf: {
      label: "the leaf chosen in the picture", kind: byte, which: "Byte", most: () => leaf.stored, start: () => 1,
      value: (i) => hex(files.proof[leaf.offset + i]), apply: (i, v) => put("proof", leaf.offset + i, v),
      name: (i) => `byte ${i} of leaf ${leaf.index} of ${leaf.tree}`,
      note: () => `leaf ${leaf.index} of ${leaf.tree}, ${bytes(leaf.bytes)}${leaf.packed ? `, its floats packed into ${bytes(leaf.stored)}` : ""}`,
    },
    answer: {
      label: "a token of the answer", kind: whole, which: "Token", most: () => run.answer.length, start: () => Math.floor(run.answer.length / 2),
      value: (i) => String(run.answer[i]), apply: (i, v) => edit((r) => (r.answer[i] = v)), name: (i) => `token ${i} of the answer`, note: () => `${run.answer.length} tokens`,
    },
    price: { label: "the price in the receipt", kind: whole, value: () => price(run)[1], apply: (_, v) => edit((r) => (price(r)[1] = String(v))), name: () => "the price", note: () => "in millisatoshi" },
    proof: {
      label: "any byte of the proof", kind: byte, which: "Byte", most: () => files.proof.length, start: () => files.proof.length - Math.max(1, hashes >> 1),
      value: (i) => hex(files.proof[i]), apply: (i, v) => put("proof", i, v), name: (i) => `byte ${i} of the proof`, note: (i) => `${bytes(files.proof.length)}; this one is in ${region(i)}`,
    },
    ghost: {
      label: "a byte of the model's Ghost file", kind: byte, which: "Byte", most: () => files.ghost.length, start: () => files.ghost.length >> 1,
      value: (i) => hex(files.ghost[i]), apply: (i, v) => put("ghost", i, v), name: (i) => `byte ${i} of the Ghost file`, note: () => bytes(files.ghost.length),
    },
    cells: { label: "how many cells were demanded", kind: whole, value: () => String(run.challenge.cells), apply: (_, v) => edit((r) => (r.challenge.cells = v)), name: () => "the cells demanded", note: () => "the asker fixes it before there is a proof" },
  };
  if (!run.answer.length) delete targets.answer;

  const what = select(Object.entries(targets).map(([k, t]) => [k, t.label]), "leaf");
  const which = h("input", { type: "number", min: 0, step: 1 });
  const value = h("input", { autocomplete: "off", spellcheck: "false", class: "mono" });
  const back = h("button", { type: "button", disabled: true }, "Put back");
  const whichField = field("Which", which);
  const note = h("small", { id: "alter-note" });
  value.setAttribute("aria-describedby", note.id);

  const target = () => targets[what.value];
  const index = () => Math.min((target().most?.() ?? 1) - 1, Math.max(0, Math.trunc(Number(which.value)) || 0));

  /** begin shows the untouched value of the target. */
  function begin(start) {
    const t = target();
    if (t === targets.leaf && !leaf) {
      value.disabled = which.disabled = true;
      note.textContent = "Choose a leaf in the picture.";
      return;
    }
    value.disabled = which.disabled = false;
    whichField.hidden = !t.which;
    if (t.which) {
      whichField.querySelector("label").textContent = t.which;
      which.max = t.most() - 1;
      if (start) which.value = t.start();
    }
    value.maxLength = t.kind.props.maxlength ?? 15;
    value.inputMode = t.kind.props.inputmode ?? "text";
    value.value = t.value(index());
    value.removeAttribute("aria-invalid");
    note.textContent = t.note(index());
    if (!back.disabled) changed(files, "");
    back.disabled = true;
  }
  what.onchange = () => begin(true);
  which.oninput = () => begin(false);
  value.oninput = () => {
    const t = target();
    const v = t.kind.parse(value.value.trim());
    if (v === undefined) return value.setAttribute("aria-invalid", "true");
    value.removeAttribute("aria-invalid");
    const [i, old] = [index(), t.value(index())];
    const same = v === t.kind.parse(old);
    back.disabled = same;
    changed(same ? files : t.apply(i, v), same ? "" : `${t.name(i)} from ${old} to ${value.value.trim()}`, same || t !== targets.leaf ? null : leaf);
  };
  back.onclick = () => {
    begin(false);
    value.focus();
  };
  const el = h("section", { class: "tamper", "aria-labelledby": "tamper-title" }, h("h2", { id: "tamper-title" }, "Tamper"), h("p", { class: "note" }, "Change one value by hand and see whether the proof still stands. Nothing is sent anywhere."), h("div", { class: "alter" }, field("Change", what), whichField, field("Value", value), back), note);
  begin(true);
  return {
    el,
    leaf(item) {
      leaf = item;
      if (what.value === "leaf") begin(true);
    },
  };
}
