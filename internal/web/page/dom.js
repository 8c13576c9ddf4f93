// Elements in few words.

const svgNS = "http://www.w3.org/2000/svg";

function fill(el, props, children) {
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) el.addEventListener(k.slice(2), v);
    else if (k === "value" && "value" in el) el.value = v;
    else el.setAttribute(k, v === true ? "" : v);
  }
  el.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false));
  return el;
}

/** h makes an HTML element; properties that begin with "on" are listeners. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** s makes an SVG element. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(svgNS, tag), props, children);
}

/** field is a label with its control and maybe a note. */
export function field(label, control, note) {
  const id = (control.id ||= "f" + field.count++);
  const hint = note && h("small", { id: id + "-note" }, note);
  if (hint) control.setAttribute("aria-describedby", hint.id);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, hint);
}
field.count = 1;

/** select is a choice among [value, text] pairs. */
export function select(options, value, props) {
  const el = h("select", props, options.map(([v, t]) => h("option", { value: v }, t)));
  if (options.some(([v]) => v === value)) el.value = value;
  return el;
}

/** notice is a message; kind is "bad", "good" or "plain". */
export function notice(kind, title, ...more) {
  return h("div", { class: "notice " + kind, role: kind === "bad" ? "alert" : "status" }, h("strong", {}, title), more.map((m) => (typeof m === "string" ? h("p", {}, m) : m)));
}

/** problem shows an error with what can be done next. */
export function problem(err, ...actions) {
  return notice("bad", err.title ?? "That did not work", err.message, err.advice ? h("p", { class: "advice" }, err.advice) : undefined, actions.length ? h("p", { class: "actions" }, actions) : undefined);
}

/** show puts children in place of what el has. */
export function show(el, ...children) {
  el.replaceChildren(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false));
}
