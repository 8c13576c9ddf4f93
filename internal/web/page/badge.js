// What was checked of an answer, in words that say no more than that.
import { h } from "./dom.js";
import { plural } from "./format.js";

/**
 * words gives {kind, text, more} for an answer. a is {grade, verified, verdict,
 * reason}; v, if it is at hand, the verdict on its proof.
 */
export function words(a, v) {
  if (a.verdict === "failed" || (v && !v.accepted)) {
    return { kind: "bad", text: "audit failed", more: v?.reason || a.reason || "The proof was refused or did not come." };
  }
  if (a.grade === "reputation") {
    return { kind: "plain", text: "reputation only: nothing can be checked", more: "Somebody signed for this answer. Nothing shows which model made it." };
  }
  const more = "Every opened value is exactly right. Values that nobody drew were not looked at.";
  const opened = v?.counts && `${v.counts.Cells} cells and ${plural(v.counts.Embeddings, "embedding")} opened, all right`;
  if (a.verified === "replicate") {
    return { kind: "good", text: "computed twice: a second provider got the same" + (opened ? `; ${opened}` : ""), more };
  }
  if (a.verified === "audit" || a.verdict === "passed") {
    return { kind: "good", text: `${a.grade}: ${opened || "cells drawn and opened, all right"}`, more };
  }
  if (a.verified === "receipt") {
    return { kind: "plain", text: "receipt only", more: "The provider signed model, request, answer and price. No value of its run was opened; a proof can still be demanded." };
  }
  return { kind: "plain", text: "nothing was checked", more: "Choose another level of checking to change that." };
}

export function badge(a, v) {
  const w = words(a, v);
  return h("span", { class: "badge " + w.kind, title: w.more }, w.text);
}
