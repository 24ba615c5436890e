// What a person does with the page, in a browser: `node browser.mjs PROGRAM ORIGIN LOCKED COUNT`, so many of it. Prints what became of each.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, origin, locked, count] = process.argv.slice(2);
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
const TEXT = ".composer textarea";
const HTML = '<img src=x onerror="alert(1)"><b>';

/** Waits until no reply runs and one more turn is there. */
const ended = (page, turns) =>
  page.waitForFunction((count) => document.querySelectorAll(".turn").length === count && !document.querySelector(".turn.running"), turns);

async function say(page, text, turns) {
  await page.fill(TEXT, text);
  await page.press(TEXT, "Enter");
  await ended(page, turns);
}

/** At most so many tokens a reply. */
async function limit(page, tokens) {
  await page.click(".sampling summary");
  await page.fill("[name=max_new_tokens]", String(tokens));
}

async function begin(page) {
  await page.goto(origin);
  await page.waitForSelector(TEXT);
}

const replies = (page) => page.locator(".reply").allTextContents();
const press = (page, name, place = -1) => page.locator(".turn").nth(place).getByRole("button", { name, exact: true }).click();
const agree = (page, verb) => page.locator("dialog").getByRole("button", { name: verb, exact: true }).click();

const SCHEMA = '{"type": "object", "properties": {"town": {"enum": ["Graz", "Ulm"]}}, "required": ["town"], "additionalProperties": false}';

/** Asks for replies in a form. */
async function form(page, kind, text) {
  if (!(await page.isVisible("[name=form]"))) await page.click(".form summary");
  await page.selectOption("[name=form]", kind);
  if (kind) await page.fill("[name=form_text]", text);
}

const SCENARIOS = {
  async "a conversation is held by keyboard alone"(page) {
    await begin(page);
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

  async "a reply is stopped, and what was said stays"(page) {
    await begin(page);
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
    await begin(page);
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

  async "text is text, whatever it looks like"(page) {
    await begin(page);
    await limit(page, 5);
    await say(page, HTML, 1);
    assert.equal(await page.locator(".said").textContent(), HTML);
    assert.equal(await page.locator(".turn img, .turn b, #side img").count(), 0);
  },

  async "turns that left are marked, and the cache is drawn"(page) {
    await begin(page);
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
    await begin(page);
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
    await begin(page);
    await limit(page, 3);
    await say(page, "hello", 1);
    await page.fill(TEXT, "word ".repeat(100));
    await page.press(TEXT, "Enter");
    await page.waitForSelector(".notice.bad");
    assert.match(await page.inputValue(TEXT), /^word word/);
    assert.equal(await page.locator(".turn").count(), 1);
  },

  async "replies come in the form that was asked for, after a reload too"(page) {
    await begin(page);
    await limit(page, 60);
    await form(page, "regex", "[0-9]{3}");
    await say(page, "a number", 1);
    assert.match((await replies(page))[0], /^[0-9]{3}$/);
    await page.reload();
    await page.waitForSelector(TEXT);
    assert.equal(await page.locator(".form summary").textContent(), "Form: Regular expression");
    await say(page, "another one", 2);
    assert.match((await replies(page))[1], /^[0-9]{3}$/);
    await form(page, "choice", "yes\nno\n");
    await say(page, "well?", 3);
    assert.match((await replies(page))[2], /^(yes|no)$/);
    await form(page, "json_schema", SCHEMA);
    await say(page, "where?", 4);
    assert.match(JSON.parse((await replies(page))[3]).town, /^(Graz|Ulm)$/);
    await form(page, "");
    await limit(page, 3);
    await say(page, "anything", 5);
    await page.reload();
    await ended(page, 5);
    assert.equal(await page.locator(".reply.code").count(), 1);
    assert.ok(JSON.parse(await page.locator(".reply.code").textContent()));
  },

  async "a form that is refused is told beside its field, and what was typed comes back"(page) {
    const refused = async (kind, text, why) => {
      await form(page, kind, text);
      await page.fill(TEXT, HTML);
      await page.press(TEXT, "Enter");
      await page.waitForSelector("[name=form_text][aria-invalid=true]");
      assert.match(await page.locator("#problem-response_format").textContent(), why);
      assert.equal(await page.evaluate(() => document.activeElement.name), "form_text");
      assert.deepEqual([await page.inputValue(TEXT), await page.inputValue("[name=form_text]")], [HTML, text]);
      assert.equal(await page.locator(".turn").count(), 0);
    };
    await begin(page);
    await refused("json_schema", '{"type": ', /no JSON/);
    await refused("json_schema", '{"not": {}}', /Unimplemented keys: \["not"\]/); // the conversation has begun by now
    await refused("regex", "(", /response_format/);
    await refused("grammar", "start: <b>nothing</b>", /response_format/);
    await refused("choice", "\n", /empty/);
    assert.equal(await page.locator(".problem b").count(), 0);
    await form(page, "choice", "yes");
    assert.equal(await page.locator("#problem-response_format").textContent(), "");
    await page.press(TEXT, "Enter");
    await ended(page, 1);
    assert.deepEqual(await replies(page), ["yes"]);
  },

  async "a reply that ends before its form is whole says so"(page) {
    await begin(page);
    await limit(page, 3);
    await form(page, "json_schema", SCHEMA);
    await say(page, "where?", 1);
    assert.match(await page.locator(".figures").textContent(), /limit of tokens.*before it was whole/);
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
      await page.waitForSelector("h1");
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
    }
    await page.goto(`${origin}/#/`);
    await page.click("#menu");
    assert.ok(await page.locator("#side").isVisible());
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#side").isHidden());
  },

  async "all of it can be used by everybody"(page) {
    await begin(page);
    await limit(page, 3);
    await say(page, "hello", 1);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const hash of ["#/", "#/operations", new URL(page.url()).hash]) {
        await page.goto(`${origin}/${hash}`);
        await page.waitForSelector("h1");
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
