// What a person does with the page, in a browser: `node browser.mjs PROGRAM ORIGIN LOCKED TOOLED COUNT`, so many of it. Prints what became of each.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { agree, begin, ended, HTML, limit, press, replies, say, TEXT } from "./acts.mjs";
import { asked } from "./asked.mjs";

const [executablePath, origin, locked, tooled, count] = process.argv.slice(2);
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");

/** Opens all that is folded. */
async function open(page) {
  await page.evaluate(() => document.querySelectorAll("main details").forEach((each) => (each.open = true)));
  if (await page.isVisible("[name=form]")) await page.selectOption("[name=form]", "grammar");
}

/** A conversation of one turn in the page, and in another, which is returned. */
async function twoPlaces(page) {
  await begin(page, origin);
  await limit(page, 3);
  await say(page, "hello", 1);
  const other = await page.context().newPage();
  await other.goto(page.url());
  await ended(other, 1);
  return other;
}

const SCENARIOS = {
  async "a conversation is held by keyboard alone"(page) {
    await begin(page, origin);
    await page.keyboard.type("hello"); // it has the focus
    await page.keyboard.press("Tab"); // to the button
    await page.keyboard.press("Tab"); // to the options of sampling
    await page.keyboard.press("Enter");
    for (const text of ["0", "", "20"]) {
      await page.keyboard.press("Tab");
      await page.keyboard.type(text);
    }
    for (let back = 0; back < 5; back += 1) await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Enter");
    await ended(page, 1);
    const [reply] = await replies(page);
    assert.ok(reply.length);
    assert.equal(await page.locator("#side [aria-current]").count(), 1);
    assert.equal(await page.locator("#spoken p").count() > 0, true, "nothing was read out");
    await page.reload();
    await ended(page, 1);
    assert.deepEqual(await replies(page), [reply]);
  },

  ...asked(origin, tooled, axe),

  async "a reply is stopped, and what was said stays"(page) {
    await begin(page, origin);
    await limit(page, 16_000);
    await page.fill(TEXT, "without end");
    await page.press(TEXT, "Enter");
    await page.waitForFunction(() => document.querySelector(".turn .reply")?.textContent.length > 20);
    await page.press(TEXT, "Escape");
    await ended(page, 1);
    assert.match(await page.locator(".figures").textContent(), /^cancelled/);
    assert.ok((await replies(page))[0].length > 20);
  },

  async "a turn is followed again after a reload in the middle, and runs once"(page) {
    await begin(page, origin);
    await limit(page, 16_000);
    await page.fill(TEXT, "without end");
    await page.press(TEXT, "Enter");
    await page.waitForFunction(() => document.querySelector(".turn .reply")?.textContent.length > 20);
    await page.reload();
    await page.waitForFunction(() => document.querySelector(".turn.running .reply")?.textContent.length > 40);
    assert.equal(await page.locator(".turn").count(), 1);
    await page.press(TEXT, "Escape");
    await ended(page, 1);
    await page.reload();
    await ended(page, 1);
    assert.match(await page.locator(".figures").textContent(), /^cancelled/);
  },

  async "what another place says is seen while it runs, and its reply when it has ended"(page) {
    const other = await twoPlaces(page);
    await limit(page, 16_000);
    await page.fill(TEXT, "without end");
    await page.press(TEXT, "Enter");
    await other.waitForSelector(".turn.running");
    assert.equal(await other.locator(".said").last().textContent(), "without end");
    assert.match(await other.locator(".figures").last().textContent(), /followed elsewhere/);
    await other.getByRole("button", { name: "Stop" }).click();
    await ended(page, 2);
    await ended(other, 2);
    assert.deepEqual(await replies(other), await replies(page));
    await limit(other, 3);
    await say(other, "and here", 3); // whoever speaks has it
    await ended(page, 3);
    assert.deepEqual(await replies(page), await replies(other));
  },

  async "two places that speak at once both see what both said"(page) {
    const other = await twoPlaces(page);
    await limit(page, 200); // so that one of them is in the middle when the other one begins
    await limit(other, 200);
    await page.fill(TEXT, "from here");
    await other.fill(TEXT, "from there");
    await Promise.all([page.press(TEXT, "Enter"), other.press(TEXT, "Enter")]);
    await ended(page, 3);
    await ended(other, 3);
    const said = await page.locator(".said").allTextContents();
    assert.deepEqual([...said].sort(), ["from here", "from there", "hello"]);
    assert.deepEqual(await other.locator(".said").allTextContents(), said);
    assert.deepEqual(await replies(other), await replies(page));
  },

  async "who goes elsewhere while a conversation is loaded stays there"(page) {
    await begin(page, origin);
    await limit(page, 3);
    await say(page, "hello", 1);
    const { hash } = new URL(page.url());
    await page.goto(`${origin}/#/`);
    await page.waitForSelector("[name=engine]");
    const slow = `${origin}/api/${hash.slice(2)}`;
    let release;
    const released = new Promise((resolve) => (release = resolve));
    await page.route(slow, async (route) => {
      await released;
      await route.continue();
    });
    const [asked, loaded] = [page.waitForRequest(slow), page.waitForResponse(slow)];
    await page.evaluate((to) => (location.hash = to), hash);
    await asked;
    await page.evaluate(() => (location.hash = "#/operations"));
    release();
    await loaded;
    await page.waitForSelector(".operations");
    await page.waitForTimeout(500);
    assert.equal(await page.locator(".turn").count(), 0);
    assert.equal(await page.locator(".operations").count(), 1);
  },

  async "text is text, whatever it looks like"(page) {
    await begin(page, origin);
    await limit(page, 5);
    await say(page, `\u202e${HTML}`, 1);
    assert.equal(await page.locator(".said").textContent(), `\u202e${HTML}`);
    assert.equal(await page.locator(".turn img, .turn b, #side img").count(), 0);
  },

  async "turns that left are marked, and the cache is drawn"(page) {
    await begin(page, origin);
    await limit(page, 20);
    for (const turns of [1, 2, 3, 4]) await say(page, "more", turns);
    assert.equal(await page.locator(".turn").first().getAttribute("data-sight"), "left");
    assert.match(await page.locator(".marks").first().textContent(), /has left the window/);
    assert.equal(await page.locator(".turn").last().getAttribute("data-sight"), "visible");
    assert.equal(await page.locator(".line").count(), 1);
    assert.match(await page.locator(".cache .words").textContent(), /^68 seen · \d+ left$/);
    assert.equal(await page.locator(".strip .left").count(), 1);
    assert.match(await page.locator(".cache svg").getAttribute("aria-label"), /^64 tokens in a ring of 71, and 4 sinks$/);
  },

  async "a conversation is forked, pinned, taken back, asked again and deleted"(page) {
    await begin(page, origin);
    await limit(page, 3);
    for (const turns of [1, 2, 3]) await say(page, `turn ${turns}`, turns);
    await press(page, "Pin", 0);
    await page.waitForFunction(() => document.querySelector(".marks").textContent.includes("pinned"));
    const before = page.url();
    await press(page, "Fork here", 1);
    await page.waitForURL((url) => url.href !== before);
    await ended(page, 2);
    await press(page, "Rewind to here", 0);
    await agree(page, "Drop");
    await ended(page, 1);
    await press(page, "Ask again");
    await agree(page, "Drop");
    await ended(page, 1);
    assert.equal(await page.locator(".said").textContent(), "turn 1");
    await page.goto(before);
    await ended(page, 3); // that one stayed as it was
    const listed = await page.locator(".sessions li").count();
    await page.locator(".sessions li:has([aria-current]) .delete").click();
    await agree(page, "Delete");
    await page.waitForFunction((count) => document.querySelectorAll(".sessions li").length === count, listed - 1);
    assert.equal(new URL(page.url()).hash, "#/");
  },

  async "what is refused is said, and what was typed comes back"(page) {
    await begin(page, origin);
    await limit(page, 3);
    await say(page, "hello", 1);
    await page.fill(TEXT, "word ".repeat(100));
    await page.press(TEXT, "Enter");
    await page.waitForSelector(".notice.bad");
    assert.match(await page.inputValue(TEXT), /^word word/);
    assert.equal(await page.locator(".turn").count(), 1);
  },

  async "a person signs in and out"(page) {
    await page.goto(locked);
    await page.waitForSelector("[name=key]");
    await page.keyboard.type("sesame");
    await page.keyboard.press("Enter");
    await page.waitForSelector(TEXT);
    await page.reload();
    await page.waitForSelector(TEXT);
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.waitForSelector("[name=key]");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  },

  async "on a phone nothing is cut off, and the list opens and closes"(page) {
    await page.setViewportSize({ width: 360, height: 640 });
    for (const hash of ["#/", "#/operations"]) {
      await page.goto(`${origin}/${hash}`);
      await page.reload(); // what was there before is gone
      await page.waitForSelector("h1");
      await open(page);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
      const cut = await page.locator("main :is(input, select, textarea, button):visible").evaluateAll((all) => all.filter((each) => each.getBoundingClientRect().right > 360));
      assert.equal(cut.length, 0);
    }
    await page.goto(`${origin}/#/`);
    await page.click("#menu");
    assert.ok(await page.locator("#side").isVisible());
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#side").isHidden());
  },

  async "all of it can be used by everybody"(page) {
    await begin(page, origin);
    await limit(page, 3);
    await say(page, "hello", 1);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const hash of ["#/", "#/operations", new URL(page.url()).hash]) {
        await page.goto(`${origin}/${hash}`);
        await page.reload();
        await page.waitForSelector("h1");
        await open(page);
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => axe.run());
        assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes[0].html]), []);
      }
    }
  },

  async "operations show what is loaded, and do what is asked"(page) {
    await page.goto(`${origin}/#/operations`);
    const loaded = page.getByRole("region", { name: "Loaded engines" });
    await loaded.getByText("demo@2").waitFor();
    assert.match(await loaded.locator("tbody").textContent(), /of 4/);
    assert.match(await page.getByRole("region", { name: "Builds" }).textContent(), /services behind this address do not answer/); // no builder is there
    await loaded.getByRole("button", { name: "Unload demo@2" }).click();
    await loaded.getByText("No engine is loaded.").waitFor();
  },
};

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const became = {};
try {
  for (const [name, scenario] of Object.entries(SCENARIOS).slice(0, Number(count))) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    context.setDefaultTimeout(20_000);
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (said) => said.type() === "error" && !said.text().startsWith("Failed to load resource") && errors.push(said.text()));
    try {
      await scenario(page);
      assert.deepEqual(errors, []);
      became[name] = "";
    } catch (error) {
      became[name] = String(error.stack);
    }
    await context.close();
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(became));
