// Pictures of the page for docs/page: node shots.mjs URL DIRECTORY, where URL is a
// node that offers a model (geist up --no-question). See docs/page/README.md.
import { chromium } from "@playwright/test";
import config from "./playwright.config.mjs";

const [url, dir] = process.argv.slice(2);
const browser = await chromium.launch(config.use.launchOptions);
const sizes = { desktop: { width: 1280, height: 860 }, phone: { width: 390, height: 844 } };

async function session(colorScheme, size, shots) {
  const context = await browser.newContext({ viewport: sizes[size], colorScheme, locale: "en", timezoneId: "UTC", deviceScaleFactor: size === "phone" ? 2 : 1 });
  const page = await context.newPage();
  page.setDefaultTimeout(300000);
  const shot = async (name) => {
    if (shots.includes(name)) await page.screenshot({ path: `${dir}/${name}-${size}-${colorScheme}.png` });
  };
  await page.goto(url + "/#/chat");
  await page.getByLabel("Model").selectOption({ index: 0 });
  await page.getByText("Length, temperature, seed").click();
  await page.getByLabel("Most tokens of an answer").fill("120");
  await page.getByLabel("Seed").fill("11");
  await page.getByText("Length, temperature, seed").click();
  for (const text of ["Tell me a story about a fox and a crow.", "Tell me a story about a king."].slice(0, size === "phone" ? 1 : 2)) {
    await page.getByRole("textbox", { name: "Your message" }).fill(text);
    await page.getByRole("textbox", { name: "Your message" }).press("Enter");
    await page.locator(".log[aria-busy]").waitFor();
    await page.locator(".log:not([aria-busy]) article:last-child .badge").getByText(/embedding/).waitFor();
  }
  await shot("chat");
  await page.getByRole("link", { name: "Check the proof" }).last().click();
  await page.locator("svg.picture").waitFor();
  await page.locator("#alter-note", { hasText: /^leaf/ }).waitFor();
  await shot("proof");
  await page.locator('svg.picture .item[aria-label$="opened for query"]').nth(1).click();
  await page.locator("#alter-note", { hasText: "weight" }).waitFor();
  await page.getByRole("spinbutton", { name: "Byte" }).fill("1");
  await page.getByRole("textbox", { name: "Value" }).fill("4d");
  await page.locator(".verdict.bad").waitFor();
  await page.locator(".tamper").scrollIntoViewIfNeeded();
  await page.mouse.wheel(0, size === "phone" ? 250 : 230);
  await page.waitForTimeout(400);
  await shot("tamper");
  for (const view of ["providers", "wallet", "serve"]) {
    if (!shots.includes(view)) continue;
    await page.goto(`${url}/#/${view}`);
    await page.waitForLoadState("networkidle");
    await page.waitForTimeout(400);
    await shot(view);
  }
  await context.close();
}

const all = ["chat", "proof", "tamper", "providers", "wallet", "serve"];
await session("light", "desktop", all);
await session("dark", "desktop", ["chat", "tamper", "providers"]);
await session("dark", "phone", ["chat", "proof"]);
await session("light", "phone", ["tamper"]);
await browser.close();
