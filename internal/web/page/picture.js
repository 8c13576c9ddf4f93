// The picture of one cell: relations on the left, what was opened for them, the
// trees it lies in, and on the right what the asker knew before.
import { h, s } from "./dom.js";
import { bytes, short } from "./format.js";

const row = 20; // of an opened leaf
const gap = 14; // between relations
const box = 34; // height of a tree
const at = { relation: 0, item: 200, trees: [330, 560, 710], roots: 850, receipt: 1010 };
const wide = { relation: 186, item: 66, trees: [190, 110, 100], roots: 120, receipt: 110 };
const width = at.receipt + wide.receipt;

const rootOf = { "the trace root": "trace", "the Ghost file": "model" };

/** path is the way of an opened leaf up to the receipt: the trees, then a root. */
export function path(x, item) {
  const trees = [];
  for (let name = item.tree; ; ) {
    const t = x.trees.find((t) => t.name === name);
    if (!t) return { trees, root: rootOf[name] };
    trees.push(t);
    name = t.in;
  }
}

function curve(x1, y1, x2, y2, props) {
  const m = (x1 + x2) / 2;
  return s("path", { d: `M${x1} ${y1}C${m} ${y1} ${m} ${y2} ${x2} ${y2}`, ...props });
}

function label(x, y, main, more) {
  return [s("text", { x, y: more ? y - 3 : y + 4, class: "main" }, main), more ? s("text", { x, y: y + 11, class: "more" }, more) : undefined];
}

/** place spreads boxes around where they want to be, without overlap. */
function place(list, from, to) {
  list.sort((a, b) => a.y - b.y);
  let y = from;
  for (const t of list) y = (t.y = Math.max(t.y, y)) + box + 8;
  for (let i = list.length - 1, most = to - box; i >= 0; i--) most = (list[i].y = Math.min(list[i].y, most)) - box - 8;
}

/**
 * draw makes the picture of explanation x. choose is called with {item, step}
 * when a leaf is chosen. The result has `mark(verdict, leaf)`, which shows where an
 * altered proof fails and what leaf was altered, and `pick(item index)`.
 */
export function draw(x, choose) {
  // Relations and their leaves.
  let y = 30;
  const items = [];
  const steps = x.steps.map((step) => {
    const begin = y;
    for (const item of step.opened) {
      items.push({ item, step, y: y + row / 2 });
      y += row;
    }
    const tall = Math.max(y - begin, 30);
    y = begin + tall + gap;
    return { step, y: begin, tall };
  });
  // Trees by how far they are from the leaves.
  const column = new Map();
  const trees = x.trees.map((t) => ({ t, col: 0 }));
  for (const n of trees) column.set(n.t.name, n);
  for (let changed = true; changed; ) {
    changed = false;
    for (const n of trees) {
      const up = column.get(n.t.in);
      if (up && up.col <= n.col) {
        up.col = Math.min(n.col + 1, at.trees.length - 1);
        changed = up.col === n.col + 1;
      }
    }
  }
  const height = Math.max(y, 30 + trees.filter((n) => n.col === 0).length * (box + 8) + 20);
  const mean = (list) => list.reduce((a, b) => a + b, 0) / (list.length || 1);
  for (let col = 0; col < at.trees.length; col++) {
    const here = trees.filter((n) => n.col === col);
    for (const n of here) {
      const below = [...items.filter((i) => i.item.tree === n.t.name).map((i) => i.y), ...trees.filter((m) => m.t.in === n.t.name && m.col < col).map((m) => m.y + box / 2)];
      n.y = mean(below) - box / 2;
    }
    place(here, 30, height);
  }
  const roots = [
    { key: "trace", name: "Trace root", value: x.trace, y: mean(trees.filter((n) => rootOf[n.t.in] === "trace").map((n) => n.y)) },
    { key: "model", name: "Ghost file", value: x.model, y: mean(trees.filter((n) => rootOf[n.t.in] === "model").map((n) => n.y)) },
  ];
  if (Math.abs(roots[0].y - roots[1].y) < box + 30) roots[1].y = roots[0].y + box + 30;
  const receipt = { y: (roots[0].y + roots[1].y) / 2 };

  const lines = s("g", { class: "lines" });
  const nodes = s("g", { class: "nodes" });
  const parts = new Map(); // key → elements, for marking
  const part = (key, ...els) => parts.set(key, [...(parts.get(key) ?? []), ...els]);

  for (const [name, px] of [["Relation", at.relation], ["Opened", at.item], ["Merkle trees", at.trees[0]], ["Known before", at.roots], ["Signed", at.receipt]]) nodes.append(s("text", { x: px, y: 14, class: "head" }, name));

  for (const st of steps) {
    const g = s("g", { class: "node relation" }, s("title", {}, `${st.step.relation}: ${st.step.says}`), s("rect", { x: at.relation, y: st.y, width: wide.relation, height: st.tall, rx: 6 }), label(at.relation + 9, st.y + st.tall / 2, st.step.relation, clip(st.step.says, 31)));
    nodes.append(g);
    part("relation " + st.step.relation, g);
  }
  for (const n of trees) {
    const px = at.trees[n.col];
    const g = s("g", { class: "node tree" }, s("title", {}, `${n.t.name}: ${n.t.opened} of ${n.t.leaves} leaves and ${n.t.siblings} hashes give ${n.t.root}`), s("rect", { x: px, y: n.y, width: wide.trees[n.col], height: box, rx: 6 }), label(px + 9, n.y + box / 2, clip(n.t.name, n.col ? 16 : 29), n.col ? `${n.t.opened} of ${n.t.leaves}` : `${n.t.opened} of ${n.t.leaves} leaves, ${n.t.siblings} hashes`));
    nodes.append(g);
    part("tree " + n.t.name, g);
    const up = column.get(n.t.in);
    const [ux, uy] = up ? [at.trees[up.col], up.y + box / 2] : [at.roots, roots.find((r) => r.key === rootOf[n.t.in]).y + box / 2];
    const line = curve(px + wide.trees[n.col], n.y + box / 2, ux, uy, { class: "up" });
    lines.append(line);
    part("from " + n.t.name, line);
  }
  for (const r of roots) {
    const g = s("g", { class: "node root" }, s("title", {}, r.value), s("rect", { x: at.roots, y: r.y, width: wide.roots, height: box, rx: 6 }), label(at.roots + 9, r.y + box / 2, r.name, short(r.value, 9)));
    nodes.append(g);
    const line = curve(at.roots + wide.roots, r.y + box / 2, at.receipt, receipt.y + box / 2, { class: "up" });
    lines.append(line);
    part("root " + r.key, g);
    part("from root " + r.key, line);
  }
  const seal = s("g", { class: "node root receipt" }, s("rect", { x: at.receipt, y: receipt.y, width: wide.receipt, height: box, rx: 6 }), label(at.receipt + 9, receipt.y + box / 2, "Receipt", "by the provider"));
  nodes.append(seal);
  part("receipt", seal);

  const chips = items.map((i, n) => {
    const tree = column.get(i.item.tree);
    const line = tree && curve(at.item + wide.item, i.y, at.trees[tree.col], tree.y + box / 2, { class: "leaf" });
    if (line) lines.append(line);
    const g = s(
      "g",
      { class: "node item", role: "button", tabindex: n ? -1 : 0, "aria-label": `leaf ${i.item.index} of ${i.item.tree}, opened for ${i.step.relation}` },
      s("title", {}, `${i.item.tree}, leaf ${i.item.index}: ${i.item.bytes} bytes, hash ${i.item.hash}`),
      s("rect", { x: at.item, y: i.y - row / 2 + 1.5, width: wide.item, height: row - 3, rx: 8 }),
      s("text", { x: at.item + wide.item / 2, y: i.y + 4, "text-anchor": "middle" }, `leaf ${i.item.index}`),
    );
    g.addEventListener("click", () => pick(n));
    g.addEventListener("keydown", (e) => {
      const to = { ArrowDown: n + 1, ArrowRight: n + 1, ArrowUp: n - 1, ArrowLeft: n - 1, Home: 0, End: items.length - 1 }[e.key];
      if (e.key === "Enter" || e.key === " ") pick(n);
      else if (chips[to]) {
        pick(to);
        chips[to].g.focus();
      } else return;
      e.preventDefault();
    });
    nodes.append(g);
    part(`item ${i.item.tree} ${i.item.index}`, g, ...(line ? [line] : []));
    return { g, line };
  });

  const svg = s("svg", { viewBox: `-1 0 ${width + 2} ${height + 4}`, class: "picture", role: "group", "aria-label": `Cell ${x.cell}: what was opened at position ${x.position}, layer ${x.layer}, and how it leads up to the receipt. Arrow keys move between opened leaves.` }, lines, nodes);

  function pick(n) {
    const { item, step } = items[n];
    svg.querySelectorAll(".on").forEach((e) => e.classList.remove("on"));
    svg.classList.add("chosen");
    const { trees, root } = path(x, item);
    const on = (key) => parts.get(key)?.forEach((e) => e.classList.add("on"));
    on("relation " + step.relation);
    chips.forEach((c, i) => c.g.setAttribute("tabindex", i === n ? 0 : -1));
    chips[n].g.classList.add("on");
    chips[n].line?.classList.add("on");
    for (const t of trees) {
      on("tree " + t.name);
      on("from " + t.name);
    }
    if (root) {
      on("root " + root);
      on("from root " + root);
    }
    on("receipt");
    choose({ item, step, trees, root });
  }

  function mark(v, leaf) {
    svg.querySelectorAll(".bad").forEach((e) => e.classList.remove("bad"));
    svg.classList.toggle("refused", !v.accepted);
    if (v.accepted) return;
    const bad = (key) => parts.get(key)?.forEach((e) => e.classList.add("bad"));
    if (leaf) bad(`item ${leaf.tree} ${leaf.index}`);
    const tensor = /tensor "([^"]+)"/.exec(v.reason)?.[1];
    if (v.relation === "trace root") ["root trace", "from root trace"].forEach(bad);
    else if (v.relation === "weights") [tensor && "tree " + tensor, tensor && "from " + tensor, "root model"].forEach(bad);
    else if (v.relation && v.position === x.position && (v.layer === x.layer || v.layer === -1)) bad("relation " + v.relation);
    else if (!v.relation) bad(/ghost|model/i.test(v.reason) ? "root model" : "receipt");
  }

  const rows = items.findIndex((i) => path(x, i.item).root === "model");
  return { svg, mark, pick, first: Math.max(0, rows), items };
}

const clip = (t, n) => (t.length > n ? t.slice(0, n - 1) + "…" : t);

/** ladder draws the way of leaf i up a tree of n leaves: hollow nodes are hashes or leaves beside it. */
function ladder(i, n) {
  const step = 15, side = 13;
  let x = 0, y = 0;
  const lines = [], dots = [];
  for (let count = n; count > 1; count = Math.ceil(count / 2), i >>= 1) {
    const sibling = i ^ 1;
    const dx = sibling >= count ? 0 : sibling > i ? side : -side;
    dots.push([x, y, "on"]);
    if (dx) {
      dots.push([x + 2 * dx, y, "beside"]);
      lines.push([x + 2 * dx, y, x + dx, y - step, "beside"]);
    }
    lines.push([x, y, x + dx, y - step, "on"]);
    x += dx;
    y -= step;
  }
  dots.push([x, y, "on top"]);
  const xs = dots.map((d) => d[0]);
  const [left, right] = [Math.min(...xs) - 8, Math.max(...xs) + 8];
  return s("svg", { class: "ladder", viewBox: `${left} ${y - 8} ${right - left} ${16 - y}`, width: right - left, height: 16 - y, "aria-hidden": "true" }, lines.map(([x1, y1, x2, y2, c]) => s("line", { x1, y1, x2, y2, class: c })), dots.map(([cx, cy, c]) => s("circle", { cx, cy, r: c === "beside" ? 3.5 : 4.5, class: c })));
}

/** story is a chosen leaf's way in words. */
export function story(x, { item, step, trees, root }) {
  const hash = (v) => h("code", { title: v }, short(v, 16));
  const out = [
    h("li", {}, h("strong", {}, `Leaf ${item.index} of ${item.tree}`), ` was opened: ${bytes(item.bytes)}. For “${step.relation}”: ${step.says}. Its hash is `, hash(item.hash), "."),
    ...trees.map((t, n) => h("li", {}, n ? `That is a leaf of “${t.name}”. ` : "", `${t.opened} opened ${t.opened === 1 ? "leaf" : "leaves"} of ${t.leaves}`, t.siblings ? ` and ${t.siblings} ${t.siblings === 1 ? "hash" : "hashes"} of the proof` : "", " give the root ", hash(t.root), ".")),
    root === "model" ? h("li", {}, "That root stands in the ", h("strong", {}, "Ghost file"), " of the model, whose id ", hash(x.model), " is named in the receipt.") : h("li", {}, "With what else the trace holds, that gives the ", h("strong", {}, "trace root"), " ", hash(x.trace), ", which the provider signed before it knew what would be drawn."),
    h("li", {}, "The ", h("strong", {}, "receipt"), " is signed by the provider, with the price and both keys in it."),
  ];
  return h("div", { class: "story" }, trees[0] ? h("figure", {}, ladder(item.index, trees[0].leaves), h("figcaption", {}, `leaf ${item.index} of ${trees[0].leaves}`)) : undefined, h("ol", {}, out));
}
