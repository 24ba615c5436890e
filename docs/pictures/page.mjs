// Draws docs/pictures/page.png: `node page.mjs PROGRAM ORIGIN`, with playwright-core to be found, a Chromium, and `sinkserve web`
// at ORIGIN before a runtime that has the demo's engine.
import { chromium } from "playwright-core";

const [executablePath, origin] = process.argv.slice(2);
const SUMS = Array.from({ length: 24 }, (_, place) => `what is ${(place * 4) % 9} + ${(place * 7) % 10}?`);
const TEXTS = ["my cat is called Miso", "i live in Oslo", ...SUMS, "what is my cat called?"];

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1120, height: 600 }, colorScheme: "light" });
await page.goto(origin);
await page.click(".options summary");
await page.fill("[name=recall_tokens]", "40");
for (const [said, text] of TEXTS.entries()) {
  await page.fill(".composer textarea", text);
  await page.press(".composer textarea", "Enter");
  await page.waitForFunction((count) => document.querySelectorAll(".turn:not(.running)").length > count, said);
}
await page.hover(".turn:last-of-type");
await page.screenshot({ path: new URL("page.png", import.meta.url).pathname });
await browser.close();
