// What page_forms.py has a browser do: `node page_forms.mjs PROGRAM URL MODEL TRIES` with {name: schema} on stdin. Prints [name, reply, figures] of each.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, url, model, tries] = process.argv.slice(2);
const asked = Object.entries(JSON.parse(readFileSync(0, "utf8"))).flatMap(([name, schema]) => Array(Number(tries)).fill([name, schema]));
const replies = [];

async function ask(page, name, schema) {
  await page.evaluate(() => (location.hash = "#/"));
  await page.waitForSelector("[name=engine]");
  await page.selectOption("[name=engine]", model);
  if (!(await page.isVisible("[name=form]"))) await page.click(".form summary");
  await page.selectOption("[name=form]", "json_schema");
  await page.fill("[name=form_text]", JSON.stringify(schema));
  await page.fill(".composer textarea[name=text]", `Tell me about ${name}, as JSON.`);
  await page.press(".composer textarea[name=text]", "Enter");
  await page.waitForSelector(".turn:not(.running) .figures:not(:empty)", { timeout: 600_000 });
  replies.push([name, await page.textContent(".reply"), await page.textContent(".figures")]);
}

async function tab(browser) {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(60_000);
  await page.goto(url);
  await page.waitForSelector("[name=engine]");
  await page.click(".sampling summary");
  await page.fill("[name=temperature]", "1");
  await page.fill("[name=max_new_tokens]", "1000");
  for (let next = asked.pop(); next; next = asked.pop()) await ask(page, ...next);
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  await Promise.all([1, 2, 3, 4].map(() => tab(browser)));
} finally {
  await browser.close();
}
console.log(JSON.stringify(replies));
