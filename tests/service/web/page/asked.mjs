// Replies that are asked for: in a form, and calls of tools.
import assert from "node:assert/strict";
import { agree, begin, ended, HTML, limit, press, replies, say, TEXT } from "./acts.mjs";

const SCHEMA = '{"type": "object", "properties": {"town": {"enum": ["Graz", "Ulm"]}}, "required": ["town"], "additionalProperties": false}';

/** Asks for replies in a form. */
async function form(page, kind, text) {
  if (!(await page.isVisible("[name=form]"))) await page.click(".form summary");
  await page.selectOption("[name=form]", kind);
  if (kind) await page.fill("[name=form_text]", text);
}

const WEATHER = { name: "weather", description: HTML, parameters: JSON.parse(SCHEMA) };
const RESULT = "[name=result]:visible";

/** Begins a conversation with tools whose next replies call one. */
async function beginWithTools(page, origin, choice, tools = [WEATHER]) {
  await begin(page, origin);
  await page.click(".hello summary:has-text('Tools')");
  await page.fill("[name=tools]", JSON.stringify(tools));
  await limit(page, 300);
  await page.fill("[name=seed]", "7");
  await page.fill("[name=temperature]", "1");
  await choose(page, choice);
}

async function choose(page, choice) {
  if (!(await page.isVisible("[name=tool_choice]"))) await page.click(".form summary");
  await page.selectOption("[name=tool_choice]", choice);
}

const towns = async (page) => (await page.locator(".turn:last-of-type .call code").allTextContents()).map((each) => JSON.parse(each).town);

export const asked = (origin, tooled, axe) => ({
  async "replies come in the form that was asked for, after a reload too"(page) {
    await begin(page, origin);
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
      assert.match(await page.locator(".form > .field .problem").textContent(), why);
      assert.equal(await page.evaluate(() => document.activeElement.name), "form_text");
      assert.deepEqual([await page.inputValue(TEXT), await page.inputValue("[name=form_text]")], [HTML, text]);
      assert.equal(await page.locator(".turn").count(), 0);
    };
    await begin(page, origin);
    await refused("json_schema", '{"type": ', /no JSON/);
    await refused("json_schema", '{"not": {}}', /Unimplemented keys: \["not"\]/); // the conversation has begun by now
    await refused("regex", "(", /response_format/);
    await refused("grammar", "start: <b>nothing</b>", /response_format/);
    await refused("choice", "\n", /empty/);
    assert.equal(await page.locator(".field .problem b").count(), 0);
    await form(page, "choice", "yes");
    assert.equal(await page.locator(".form > .field .problem").textContent(), "");
    await page.press(TEXT, "Enter");
    await ended(page, 1);
    assert.deepEqual(await replies(page), ["yes"]);
  },

  async "a reply that ends before its form is whole says so"(page) {
    await begin(page, origin);
    await limit(page, 3);
    await form(page, "json_schema", SCHEMA);
    await say(page, "where?", 1);
    assert.match(await page.locator(".figures").textContent(), /limit of tokens.*before it was whole/);
  },

  async "a tool is called and answered by keyboard, and the reply goes on"(page) {
    await beginWithTools(page, tooled, "weather");
    await say(page, "and outside?", 1);
    assert.match((await towns(page))[0], /^(Graz|Ulm)$/);
    assert.match(await page.locator(".figures").textContent(), /^called tools/);
    assert.match(await page.locator("#spoken").textContent(), /It calls weather/);
    await page.keyboard.type(HTML); // the field has the focus
    await page.keyboard.press("Enter");
    await ended(page, 2);
    assert.equal(await page.locator(".said.tool").textContent(), `weather ${HTML}`);
    assert.equal(await page.locator(".turn img").count(), 0);
    assert.ok((await replies(page))[1].length);
    assert.equal(await page.locator(".turn:last-of-type .call").count(), 0, "what was forced is forced once");
    assert.equal(await page.locator(RESULT).count(), 0);
    await page.reload();
    await ended(page, 2);
    assert.equal(await page.locator(".said.tool").textContent(), `weather ${HTML}`);
    assert.equal(await page.locator(RESULT).count(), 0);
    await limit(page, 5);
    await press(page, "Ask again");
    await agree(page, "Drop");
    await ended(page, 2);
    assert.equal(await page.locator(".said.tool").textContent(), `weather ${HTML}`); // the result, and not a user's words
  },

  async "calls that wait for their results come back after a reload"(page) {
    await beginWithTools(page, tooled, "required", [{ type: "function", function: { ...WEATHER, strict: true } }]);
    await say(page, "and outside?", 1);
    const called = await towns(page);
    await page.reload();
    await ended(page, 1);
    assert.deepEqual(await towns(page), called);
    assert.equal(await page.locator(RESULT).count(), called.length);
    await page.evaluate(axe);
    assert.deepEqual((await page.evaluate(() => axe.run())).violations.map(({ id }) => id), []);
    await page.locator(".answer button").click();
    await page.waitForSelector("[name=result][aria-invalid=true]"); // nothing was typed yet
    for (let place = 0; place < called.length; place += 1) await page.locator(RESULT).nth(place).fill(`${place} degrees`);
    await limit(page, 4);
    await page.locator(".answer button").click();
    await ended(page, 2);
    assert.equal(await page.locator(".said.tool").count(), called.length);
  },

  async "results that are refused stay in their fields"(page) {
    await beginWithTools(page, tooled, "weather");
    await say(page, "and outside?", 1);
    await page.fill(RESULT, "much ".repeat(3000));
    await page.press(RESULT, "Enter");
    await page.waitForSelector(".notice.bad");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 1);
    assert.match(await page.inputValue(RESULT), /^much much/);
    await choose(page, "none");
    await limit(page, 4);
    await say(page, "never mind", 2); // on without results
    assert.equal(await page.locator(RESULT).count(), 0);
  },

  async "tools that are wrong are told beside their field, and what was typed comes back"(page) {
    const refused = async (tools, why) => {
      await page.fill("[name=tools]", tools);
      await page.fill(TEXT, "hello");
      await page.press(TEXT, "Enter");
      await page.waitForSelector("[name=tools][aria-invalid=true]");
      assert.match(await page.locator(".field:has([name=tools]) .problem").textContent(), why);
      assert.deepEqual([await page.inputValue(TEXT), await page.inputValue("[name=tools]")], ["hello", tools]);
    };
    await begin(page, tooled);
    await page.click(".hello summary:has-text('Tools')");
    await refused("[{", /no JSON/);
    await refused('{"name": "a"}', /list/);
    await refused('[{"name": "a", "deep": 1}]', /tools\.0\.deep/);
    await refused('[{"name": "a b"}]', /tools\[0\]\.name/);
    await page.reload();
    await page.waitForSelector(TEXT);
    assert.equal(await page.inputValue("[name=tools]"), '[{"name": "a b"}]');
    await page.evaluate(() => (location.hash = "#/operations")); // and back: nothing is lost
    await page.waitForSelector(".operations");
    await page.evaluate(() => (location.hash = "#/"));
    await page.waitForSelector("[name=tools]");
    assert.equal(await page.locator("summary:has-text('Tools')").textContent(), "Tools: a b");
  },

  async "an engine that takes no tools says so beside them"(page) {
    await begin(page, origin);
    await page.click(".hello summary:has-text('Tools')");
    await page.fill("[name=tools]", JSON.stringify([WEATHER]));
    await page.fill(TEXT, "hello");
    await page.press(TEXT, "Enter");
    await page.waitForSelector("[name=tools][aria-invalid=true]");
    assert.match(await page.locator(".field:has([name=tools]) .problem").textContent(), /demo@\d/);
    await page.fill("[name=tools]", "");
    await limit(page, 3);
    await say(page, "hello", 1);
  },

  async "a choice that cannot be is told beside it"(page) {
    await beginWithTools(page, tooled, "required");
    await form(page, "regex", "a");
    await page.fill(TEXT, "hello");
    await page.press(TEXT, "Enter");
    await page.waitForSelector(".form [aria-invalid=true]");
    assert.match(await page.locator(".form .problem:not(:empty)").textContent(), /tool_choice/);
    assert.equal(await page.inputValue(TEXT), "hello");
  },
});
