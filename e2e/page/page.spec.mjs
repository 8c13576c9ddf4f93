// The page of a node, used as a person would. GEIST_URL is a node that knows a
// model "tiny" (ghost-audited, two providers) and one of grade reputation;
// GEIST_GUARDED_URL demands GEIST_KEY.
import { AxeBuilder } from "@axe-core/playwright";
import { test as base, expect } from "@playwright/test";
import { readFile } from "node:fs/promises";

const views = ["chat", "proof", "providers", "wallet", "serve"];

// Every test fails that writes an error to the console, throws, or asks for
// anything outside of this machine.
const test = base.extend({
  allow: [[], { option: true }], // errors that the test is about
  page: async ({ page, context, allow }, use) => {
    const faults = [];
    const outside = [];
    await context.route(
      (u) => u.protocol.startsWith("http") && u.hostname !== "127.0.0.1",
      (r) => (outside.push(r.request().url()), r.abort()),
    );
    page.on("console", (m) => m.type() === "error" && !allow.some((a) => m.text().includes(a)) && faults.push(m.text()));
    page.on("pageerror", (e) => faults.push(e.stack));
    page.on("request", (r) => /^https?:/.test(r.url()) && new URL(r.url()).hostname !== "127.0.0.1" && outside.push(r.url()));
    await use(page);
    expect(outside).toEqual([]);
    expect(faults).toEqual([]);
  },
});

const said = (page) => page.getByRole("textbox", { name: "Your message" });
const log = (page) => page.getByRole("log");
const bar = (page) => page.locator(".verdict");
const value = (page) => page.getByRole("textbox", { name: "Value" });

async function ask(page, text, { check = "audit", model = "tiny", most = "24", provider = "" } = {}) {
  await page.goto("/#/chat");
  await expect(page.getByLabel("Model")).toHaveValue(/./);
  await page.getByLabel("Model").selectOption(model);
  await page.getByLabel("Check").selectOption(check);
  if (provider) await page.getByLabel("Provider").selectOption(provider);
  const more = page.getByText("Length, temperature, seed");
  if (!(await page.getByLabel("Most tokens of an answer").isVisible())) await more.click();
  await page.getByLabel("Most tokens of an answer").fill(most);
  await said(page).fill(text);
  await said(page).press("Enter");
  const answer = log(page).getByRole("article", { name: "Answer" }).last();
  await expect(log(page)).not.toHaveAttribute("aria-busy");
  return answer;
}

test("chats, says what it cost and what was checked, and keeps the conversation", async ({ page }) => {
  const answer = await ask(page, "Tell me of the <b>sea</b>");
  await expect(answer.locator(".badge")).toHaveText(/^ghost-audited: 32 cells and \d+ embeddings? opened, all right$/);
  await expect(answer.locator(".price")).toHaveText(/^[\d.,]+ m?sat$/);
  await expect(answer.getByText(/\d+ \+ \d+ tokens/)).toBeVisible();
  await expect(answer.locator(".text")).not.toBeEmpty();
  const text = await answer.locator(".text").textContent();
  await expect(log(page).getByText("Tell me of the <b>sea</b>")).toBeVisible();
  await page.reload();
  await expect(log(page).getByRole("article", { name: "Answer" }).locator(".text")).toHaveText(text, { useInnerText: false });
  await page.getByRole("button", { name: "Clear conversation" }).click();
  await expect(log(page).getByRole("article")).toHaveCount(0);
  await page.reload();
  await expect(page.getByRole("heading", { name: "Ask a model that others run" })).toBeVisible();
});

test("equal seeds give equal answers", async ({ page }) => {
  const texts = [];
  for (let i = 0; i < 2; i++) {
    await page.goto("/#/chat");
    await page.evaluate(() => localStorage.setItem("geist.wish", JSON.stringify({ seed: "7", max: "16" })));
    await page.evaluate(() => localStorage.removeItem("geist.conversation"));
    await page.reload();
    texts.push(await (await ask(page, "Again", { most: "16" })).locator(".text").textContent());
  }
  expect(texts[0]).not.toBe("");
  expect(texts[1]).toBe(texts[0]);
});

test("stops an answer", async ({ page }) => {
  await page.goto("/#/chat");
  await page.getByLabel("Model").selectOption("tiny");
  await page.getByText("Length, temperature, seed").click();
  await page.getByLabel("Most tokens of an answer").fill("900");
  await page.getByLabel("Seed").fill("7");
  // The answer is held up so that there is time to stop it.
  await page.route("**/v1/chat/completions", (r) => setTimeout(() => r.continue().catch(() => {}), 1500));
  await said(page).fill("Tell me everything");
  await said(page).press("Enter");
  await expect(log(page)).toHaveAttribute("aria-busy", "true");
  await page.getByRole("button", { name: "Stop" }).click();
  await expect(page.getByRole("button", { name: "Send" })).toBeVisible();
  await expect(log(page).getByRole("alert")).toHaveCount(0);
  await expect(page.getByText("Stopped.")).toBeAttached();
});

test("names a provider, and nobody else answers", async ({ page }) => {
  await page.goto("/#/chat");
  await page.getByLabel("Model").selectOption("tiny");
  const own = page.getByLabel("Provider").locator("option", { hasText: "this node" });
  const key = await own.getAttribute("value");
  const answer = await ask(page, "Who are you?", { most: "8", provider: key });
  const npub = await page.evaluate(async (k) => (await import(new URL("format.js", document.querySelector("script[type=module]").src))).npub(k), key);
  expect(npub).toMatch(/^npub1[02-9ac-hj-np-z]{58}$/);
  await expect(answer.getByTitle(npub)).toBeVisible();
});

test("says that reputation can not be checked", async ({ page }) => {
  const answer = await ask(page, "Hello", { model: "elsewhere", check: "receipt", most: "8" });
  await expect(answer.locator(".badge")).toHaveText("reputation only: nothing can be checked");
  await expect(answer.getByRole("link", { name: /proof/ })).toHaveCount(0);
});

test("a receipt first, its proof later", async ({ page }) => {
  const answer = await ask(page, "Only sign it", { check: "receipt" });
  await expect(answer.locator(".badge")).toHaveText("receipt only");
  await answer.getByRole("link", { name: "Demand a proof" }).click();
  await page.getByRole("button", { name: "Demand the proof" }).click();
  await expect(bar(page)).toContainText("Accepted");
  await expect(bar(page)).toContainText(/ghost-audited: 32 cells and \d+ embeddings? opened, all right/);
});

test("checks a proof in the browser, draws it, and sees it fail when altered", async ({ page }) => {
  const answer = await ask(page, "Prove it");
  await answer.getByRole("link", { name: "Check the proof" }).click();
  await expect(bar(page)).toContainText("Accepted");
  await expect(bar(page)).toContainText(/checked here in [\d,]+ ms/);

  // The picture, by keyboard: from a leaf to the receipt.
  const leaves = page.locator("svg.picture .item");
  expect(await leaves.count()).toBeGreaterThan(10);
  const story = page.locator(".story");
  await expect(story).toContainText("Ghost file");
  await leaves.first().focus();
  await page.keyboard.press("Home");
  await expect(story).toContainText(/Leaf \d+ of /);
  const first = await story.textContent();
  await page.keyboard.press("ArrowDown");
  await expect(story).not.toHaveText(first);
  await expect(page.locator("svg.picture path.on").first()).toBeAttached();
  await page.getByRole("button", { name: "Next cell" }).click();
  await expect(page.getByText(/^Cell 2 of 32/)).toBeVisible();

  const refused = async (reason, words) => {
    await expect(bar(page)).toContainText("Refused");
    await expect(bar(page)).toContainText(reason);
    await expect(bar(page)).toContainText(words);
    await expect(page.locator("svg.picture .bad").first()).toBeAttached();
    await page.getByRole("button", { name: "Put back" }).click();
    await expect(bar(page)).toContainText("Accepted");
    await expect(page.locator("svg.picture .bad")).toHaveCount(0);
  };
  const change = (what) => page.getByLabel("Change").selectOption({ label: what });

  // A row of weights of this very cell: the relation it was opened for fails.
  const row = page.locator('svg.picture .item[aria-label$="opened for query"]').filter({ has: page.locator("title", { hasText: "attn_q.weight" }) });
  await row.click();
  await expect(page.getByText(/^leaf \d+ of blk\.\d+\.attn_q\.weight, \d+ bytes$/)).toBeVisible();
  await page.getByRole("spinbutton", { name: "Byte" }).fill("1");
  const was = await value(page).inputValue();
  await value(page).fill(was === "5a" ? "5b" : "5a");
  await expect(bar(page)).toContainText(/The leaf's hash was [0-9a-f]+…[0-9a-f]+ and is now [0-9a-f]+…/);
  await expect(row).toHaveClass(/bad/);
  await refused(/position \d+, layer \d+, query: row \d+ is/, `You changed byte 1 of leaf`);

  await change("a token of the answer");
  await value(page).fill("3");
  await refused(/tokens|answer/, /You changed token \d+ of the answer from \d+ to 3/);

  await change("the price in the receipt");
  await value(page).fill("1");
  await refused(/id|sign/, /You changed the price from \d+ to 1/);

  await change("any byte of the proof");
  await expect(page.getByText("this one is in a hash of a tree")).toBeVisible();
  const byte = parseInt(await value(page).inputValue(), 16);
  await value(page).fill((byte ^ 1).toString(16).padStart(2, "0"));
  await refused(/trace root|weights/, /no longer/);

  await change("a byte of the model's Ghost file");
  const g = parseInt(await value(page).inputValue(), 16);
  await value(page).fill((g ^ 1).toString(16).padStart(2, "0"));
  await refused(/./, /You changed byte \d+ of the Ghost file/);

  await change("how many cells were demanded");
  await value(page).fill("31");
  await refused(/./, "You changed the cells demanded from 32 to 31");

  // What is no value is not taken for one.
  await value(page).fill("many");
  await expect(value(page)).toHaveAttribute("aria-invalid", "true");
  await expect(bar(page)).toContainText("Accepted");
});

test("checks files from disk", async ({ page, request }) => {
  await ask(page, "To disk");
  const id = (await (await request.get("/geist/v1/receipts")).json()).receipts.find((r) => r.verdict === "passed").receipt;
  const file = async (kind) => ({ name: "x." + kind, mimeType: "application/octet-stream", buffer: Buffer.from(await (await request.get(`/geist/v1/receipts/${id}/${kind}`)).body()) });
  const [run, ghost, proof] = await Promise.all(["run", "ghost", "proof"].map(file));
  await page.goto("/#/proof");
  await page.getByLabel("Or files from disk").setInputFiles([run, proof]);
  await expect(page.getByRole("alert")).toContainText("missing: Ghost file");
  await page.getByLabel("Or files from disk").setInputFiles([proof, run, ghost]);
  await expect(bar(page)).toContainText("Accepted");
  proof.buffer[proof.buffer.length - 1] ^= 1;
  await page.getByLabel("Or files from disk").setInputFiles([proof, run, ghost]);
  await expect(bar(page)).toContainText("Refused");
  await page.getByLabel("Or files from disk").setInputFiles([{ name: "x", mimeType: "text/plain", buffer: Buffer.from("hello") }]);
  await expect(page.getByRole("alert")).toContainText("A file begins neither");
});

test("providers in order, with reasons", async ({ page }) => {
  await page.goto("/#/providers");
  await page.getByLabel("Model").selectOption("tiny");
  const list = page.getByRole("list", { name: "Providers in order" }).getByRole("listitem");
  await expect(list).toHaveCount(2);
  await expect(list.first()).toContainText("Place 1: asked first");
  await expect(list.nth(1)).toContainText("Place 2: ");
  await expect(list.filter({ hasText: "This node" })).toContainText("1 in, 2 out");
  await expect(list.filter({ hasNotText: "This node" })).toContainText("0.8 in, 1.6 out");
  await page.getByLabel("Model").selectOption("elsewhere");
  await expect(list).toHaveCount(1);
  await expect(list.first()).toContainText("reputation only");
});

test("wallet: balances, limits, and the cost of each answer as CSV", async ({ page, request }) => {
  await ask(page, "Cost me something");
  await page.goto("/#/wallet");
  await expect(page.getByText("You owe", { exact: true })).toBeVisible();
  await expect(page.getByRole("region", { name: "Balances by peer" }).getByRole("row")).not.toHaveCount(1);
  const ledger = (await (await request.get("/geist/v1/wallet")).json()).ledger;
  const coming = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download CSV" }).click();
  const lines = (await readFile(await (await coming).path(), "utf8")).trim().split("\r\n");
  expect(lines[0].split(",").slice(0, 2)).toEqual(["at", "model"]);
  expect(lines.length).toBe(ledger.length + 1);
  expect(lines[1]).toContain("," + ledger[0].paid_msat + ",");
  await page.getByRole("link", { name: /^Proof of the answer/ }).first().click();
  await expect(page.getByRole("heading", { name: "Proof" })).toBeVisible();
});

test("offers a model, sees it work, withdraws it", async ({ page }) => {
  await page.goto("/#/serve");
  await page.getByLabel("Model", { exact: true }).selectOption("small");
  await page.getByLabel("Price of a token read, msat").fill("0.5");
  await page.getByLabel("Price of a token written, msat").fill("1.25");
  await page.getByLabel("Answers at once").fill("2");
  await page.getByRole("button", { name: "Offer" }).click();
  const card = page.getByRole("article", { name: "small" });
  await expect(card).toContainText("0.5 msat per token read, 1.25 written");
  await expect(page.getByText("small is on offer")).toBeVisible();
  const answer = await ask(page, "Work", { model: "small", most: "8" });
  await expect(answer.locator(".badge")).toHaveText(/^ghost-audited/);
  await page.goto("/#/serve");
  await expect(page.locator(".tile").filter({ hasText: "Earned" }).locator("b")).not.toHaveText("0 msat");
  await card.getByRole("button", { name: "Withdraw" }).click();
  await card.getByRole("button", { name: "Really withdraw?" }).click();
  await expect(page.getByText("small is no longer on offer")).toBeVisible();
  await expect(card).toHaveCount(0);
});

test.describe(() => {
  test.use({ allow: ["409 (Conflict)"] });
  test("says why an offer is refused", async ({ page }) => {
    await page.goto("/#/serve");
    await page.getByLabel("Model", { exact: true }).selectOption("tiny");
    await page.getByRole("button", { name: "Offer" }).click();
    await expect(page.getByRole("alert")).toContainText("served already");
  });
});

test.describe(() => {
  test.use({ allow: ["ERR_FAILED", "ERR_CONNECTION_REFUSED", "status of 4", "status of 5"] });

  test("says what to do when the node is gone, and goes on when it is back", async ({ page }) => {
    await page.goto("/#/chat");
    await page.getByLabel("Model").selectOption("tiny");
    await page.route("**/v1/**", (r) => r.abort());
    await said(page).fill("Are you there?");
    await said(page).press("Enter");
    await expect(page.getByRole("alert")).toContainText("geist up");
    await page.unroute("**/v1/**");
    await page.getByRole("button", { name: "Ask again" }).click();
    await expect(log(page).getByRole("article", { name: "Answer" }).locator(".badge")).toBeVisible();
  });

  test("says what to do when the context is full", async ({ page }) => {
    await page.goto("/#/chat");
    await page.getByLabel("Model").selectOption("tiny");
    await said(page).fill("long ".repeat(2000));
    await page.getByRole("button", { name: "Send" }).click();
    await expect(page.getByRole("alert")).toContainText("Clear the conversation");
    await page.getByRole("alert").getByRole("button", { name: "Clear conversation" }).click();
    await expect(log(page).getByRole("article")).toHaveCount(0);
  });

  test("asks for a key where one is demanded", async ({ page }) => {
    await page.goto(process.env.GEIST_GUARDED_URL);
    const dialog = page.getByRole("dialog", { name: "This node demands a key" });
    await expect(dialog).toBeVisible();
    await dialog.getByLabel("Key").fill("not-the-right-one");
    await dialog.getByLabel("Key").press("Enter");
    await expect(dialog).toContainText("The key was not the right one.");
    await dialog.getByLabel("Key").fill(process.env.GEIST_KEY);
    await dialog.getByRole("button", { name: "Use this key" }).click();
    await expect(dialog).toBeHidden();
    await expect(page.getByLabel("Model")).toHaveValue(/./);
    await page.reload();
    await expect(page.getByLabel("Model")).toHaveValue(/./);
    await expect(dialog).toBeHidden();
    expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain(process.env.GEIST_KEY);
  });
});

test("is used by keyboard alone", async ({ page }) => {
  await page.goto("/");
  await expect(page.getByLabel("Model")).toHaveValue(/./);
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to content" })).toBeFocused();
  for (const name of ["geist", "Chat", "Proof", "Providers"]) {
    await page.keyboard.press("Tab");
    await expect(page.getByRole("link", { name, exact: true })).toBeFocused();
  }
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { name: "Providers" })).toBeVisible();
  await expect(page).toHaveTitle(/Providers/);
  await expect(page.getByRole("main")).toBeFocused();
  await expect(page.getByRole("link", { name: "Providers", exact: true })).toHaveAttribute("aria-current", "page");
});

for (const colorScheme of ["light", "dark"]) {
  test.describe(() => {
    test.use({ colorScheme });
    test(`nothing that axe finds is wrong (${colorScheme})`, async ({ page }) => {
      await ask(page, "For everybody");
      for (const v of views) {
        await page.goto("/#/" + v);
        if (v === "proof") await page.locator("svg.picture").waitFor();
        else await page.waitForLoadState("networkidle");
        const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
        expect(found.violations.map((x) => [v, x.id, x.nodes.map((n) => n.html)])).toEqual([]);
      }
    });
  });
}

test.describe(() => {
  test.use({ viewport: { width: 360, height: 740 }, hasTouch: true, reducedMotion: "reduce" });
  test("fits a small screen and moves nothing", async ({ page }) => {
    await ask(page, "On the phone");
    for (const v of views) {
      await page.goto("/#/" + v);
      if (v === "proof") await page.locator("svg.picture").waitFor();
      else await page.waitForLoadState("networkidle");
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), v).toBeLessThanOrEqual(0);
      expect(await page.evaluate(() => document.getAnimations().length), v).toBe(0);
    }
  });
});

test.describe(() => {
test.use({ allow: ["Content Security Policy"] });
test("its policy holds: no foreign script, style, image or connection", async ({ page }) => {
  await page.goto("/");
  const blocked = await page.evaluate(async () => {
    const seen = [];
    document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "window.injected = true";
    document.body.append(script);
    const style = document.createElement("div");
    style.setAttribute("style", "color: red");
    document.body.append(style);
    const image = document.createElement("img");
    image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
    document.body.append(image);
    await fetch("data:text/plain,x").catch(() => {});
    await new Promise((r) => setTimeout(r, 300));
    return { seen: [...new Set(seen)].sort(), injected: window.injected === true };
  });
  expect(blocked.injected).toBe(false);
  expect(blocked.seen).toEqual(expect.arrayContaining(["connect-src", "img-src", "script-src-elem", "style-src-attr"]));
});
});
