// Wallet: who owes whom, what may be spent, and what each answer cost.
import { get } from "./api.js";
import { badge } from "./badge.js";
import { h, notice } from "./dom.js";
import { count, msat, npub, short, when } from "./format.js";

const columns = ["at", "model", "model_id", "provider", "phase", "code", "prompt_tokens", "answer_tokens", "paid_msat", "rail", "receipt", "grade", "verified", "verdict"];

/** csv is RFC 4180; what a spreadsheet would take for a formula gets a quote. */
export function csv(ledger) {
  const cell = (v) => {
    let t = String(v ?? "");
    if (/^[=+\-@\t\r]/.test(t) && Number.isNaN(Number(t))) t = "'" + t;
    return /[",\r\n]/.test(t) ? `"${t.replaceAll('"', '""')}"` : t;
  };
  const rows = ledger.map((e) => columns.map((c) => cell(c === "at" ? new Date(e.at).toISOString() : e[c])).join(","));
  return [columns.join(","), ...rows].join("\r\n") + "\r\n";
}

function download(ledger) {
  const url = URL.createObjectURL(new Blob([csv(ledger)], { type: "text/csv" }));
  h("a", { href: url, download: "geist-costs.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function table(label, heads, rows) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, heads.map(([t, c]) => h("th", { scope: "col", class: c }, t)))), h("tbody", {}, rows)));
}

export async function wallet(box, { gone }) {
  const body = h("div", {});
  box.append(h("h1", {}, "Wallet"), body);
  async function show() {
    const w = await get("/geist/v1/wallet");
    if (gone.aborted) return;
    const tile = (name, value, note) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("small", {}, note)));
    const td = (c, ...v) => h("td", { class: c }, ...v);
    const peers = w.peers.map((p) =>
      h("tr", {}, h("th", { scope: "row", title: p.npub }, short(p.npub, 14)), td("", p.role === "provider" ? "answers you" : "asks you"), td("num", p.balance_msat === 0 ? "even" : p.balance_msat > 0 ? `owes you ${msat(p.balance_msat)}` : `you owe ${msat(-p.balance_msat)}`), td("num", p.own ? "no limit: this node itself" : p.role === "provider" ? `you may owe it ${msat(p.left_msat)} more` : `may owe you ${msat(p.left_msat)} more`)),
    );
    const ledger = w.ledger.map((e) =>
      h("tr", {}, td("", when(e.at)), td("", e.model), td("", h("span", { title: npub(e.provider) }, short(npub(e.provider), 14))), td("num", `${count(e.prompt_tokens)} + ${count(e.answer_tokens)}`), td("num", msat(e.paid_msat)), td("", e.phase === "failed" ? h("span", { class: "badge bad", title: e.message }, `failed: ${e.code}`) : badge(e)), td("", e.receipt ? h("a", { href: "#/proof/" + e.receipt, "aria-label": "Proof of the answer of " + when(e.at) }, "Proof") : "")),
    );
    body.replaceChildren(
      h("p", { class: "lead" }, "Balances are credit: numbers that both sides have signed, within limits that each has set. No bitcoin is moved and no custody is taken."),
      h("dl", { class: "tiles" }, tile("You owe", msat(w.you_owe_msat), "to providers"), tile("Owed to you", msat(w.owed_to_you_msat), "by clients"), tile("Spent today", msat(w.spent_today_msat), "since midnight UTC")),
      h("h2", {}, "Limits"),
      h("dl", { class: "plain" }, [["One request may cost", w.per_request_msat], ["You may owe one provider", w.debt_msat], ["A client may owe you", w.credit_msat]].map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, msat(v))))),
      h("h2", {}, "Balances"),
      peers.length ? table("Balances by peer", [["Peer"], ["Role"], ["Balance", "num"], ["Before its limit", "num"]], peers) : notice("plain", "No balances yet", "They begin with the first answer that you pay for, or are paid for."),
      h("div", { class: "row between" }, h("h2", {}, "What answers cost"), w.ledger.length ? h("button", { onclick: () => download(w.ledger) }, "Download CSV") : undefined),
      ledger.length ? table("What answers cost", [["When"], ["Model"], ["Provider"], ["Tokens", "num"], ["Paid", "num"], ["Checked"], ["Proof"]], ledger) : notice("plain", "Nothing was asked yet", h("p", {}, h("a", { href: "#/chat" }, "Ask something"))),
    );
  }
  await show();
}
