// Opens a page in a browser until it is ready or says why not: `node page.mjs PROGRAM URL`. Prints what it shows.
import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => document.title === "ready" || document.querySelector("pre").textContent.includes("Error"));
  const log = await page.evaluate(() => document.querySelector("pre").textContent);
  console.log(JSON.stringify({ title: await page.title(), log }));
} finally {
  await browser.close();
}
