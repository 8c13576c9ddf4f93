import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  workers: 1,
  retries: 0,
  // Generous: what is asked here is what the page shows, not how quickly.
  timeout: 300000,
  expect: { timeout: 60000 },
  reporter: [["list"]],
  use: {
    baseURL: process.env.GEIST_URL,
    trace: "off",
    launchOptions: {
      executablePath: process.env.GEIST_CHROMIUM || "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    },
  },
});
