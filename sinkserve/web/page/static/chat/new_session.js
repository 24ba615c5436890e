// A new conversation: which engine, which options, and the first thing that is said.

import { call, stored } from "/page/api.js";
import { Composer } from "/page/chat/composer.js";
import { ToolsField } from "/page/chat/tools_field.js";
import { el } from "/page/dom.js";
import { addressOf } from "/page/side.js";
import { brief, count } from "/page/figures.js";

const TITLE = 80; // characters
const NOT_IN_LABELS = /[\p{Cc}\p{Bidi_Control}]/gu; // line ends are spaces in a title
const WHEN_FULL = [
  ["evict", "the oldest tokens leave the window"],
  ["notify", "they leave, and each turn says which"],
  ["error", "the conversation ends"],
];
const KEPT = [
  ["", "as the server is set"],
  ["tokens", "its turns"],
  ["tokens_and_kv", "its turns, and snapshots of the cache"],
  ["none", "nothing: it ends with its server"],
];

export async function showNewSession(main, side) {
  const { engines } = await call("GET", "/api/loaded");
  const form = new SessionForm(engines);
  const begin = async (text, generation) => {
    const title = brief(text.replace(NOT_IN_LABELS, " "), TITLE);
    const session = await call("POST", "/api/sessions", { ...form.value(), labels: title ? { title } : {} });
    stored(session.name).set({ turn_id: crypto.randomUUID(), text, ...generation }); // the chat sends it
    location.hash = addressOf(session);
    side.load().catch(() => {});
  };
  const composer = new Composer(begin);
  form.tools = new ToolsField((names) => composer.form.tools(names));
  form.element.append(form.tools.element);
  composer.parts.push(form.tools);
  const nothing = el("p", { class: "empty" }, "This runtime has no engine loaded. Operations says what is there.");
  const hello = el("div", { class: "hello" }, el("h1", {}, "New conversation"), engines.length ? form.element : nothing);
  main.replaceChildren(el("div", { class: "chat" }, el("div", { class: "scroll" }, hello), composer.element));
  composer.enabled(engines.length > 0);
  composer.focus();
  return { leave: () => {} };
}

class SessionForm {
  constructor(engines) {
    this.engines = engines;
    this.engine = select("engine", engines.map(({ reference }) => [reference, reference]));
    this.system = el("textarea", { name: "system_prompt", rows: 2, placeholder: "None. One that fits the sinks is never forgotten." });
    this.window = number("window_tokens", 1);
    this.sinks = number("sink_tokens", 0);
    this.recall = number("recall_tokens", 0);
    this.full = select("on_full", WHEN_FULL);
    this.kept = select("durability", KEPT);
    this.element = el(
      "form",
      { class: "options" },
      field("Engine", this.engine),
      field("System prompt", this.system),
      el(
        "details",
        {},
        el("summary", {}, "Options"),
        el(
          "div",
          { class: "grid" },
          field("Window, in tokens", this.window),
          field("Sinks, in tokens", this.sinks),
          field("Recall, tokens a turn", this.recall, "Read old turns again that have the new words; 0 is off."),
          field("When the window is full", this.full),
          field("What outlives the server", this.kept),
        ),
      ),
    );
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.engine.addEventListener("change", () => this.#bound());
    this.window.addEventListener("input", () => this.#bound());
    this.#bound();
  }

  /** What was chosen; what was left as it is, is left out. */
  value() {
    const numbers = [this.window, this.sinks, this.recall].filter((input) => input.value !== "");
    const texts = [this.engine, this.system, this.full, this.kept].filter((input) => input.value.trim() !== "");
    const given = [...texts.map(({ name, value }) => [name, value]), ...numbers.map((input) => [input.name, Number(input.value)])];
    return { ...Object.fromEntries(given), ...this.tools.value };
  }

  /** The engine says how much there can be. */
  #bound() {
    const cache = this.engines.find(({ reference }) => reference === this.engine.value)?.cache;
    if (!cache) return;
    const window = Number(this.window.value) || cache.window_tokens;
    limit(this.window, cache.window_tokens, `${count(cache.window_tokens)}, the engine's`);
    limit(this.sinks, cache.sink_tokens, `${count(cache.sink_tokens)}, the engine's`);
    limit(this.recall, Math.floor(window / 4), `0; up to ${count(Math.floor(window / 4))}`);
  }
}

function limit(input, most, placeholder) {
  input.max = most;
  input.placeholder = placeholder;
}

function field(label, input, hint) {
  return el("label", {}, el("span", {}, label), input, hint && el("span", { class: "hint" }, hint));
}

function select(name, choices) {
  return el("select", { name }, choices.map(([value, text]) => el("option", { value }, text)));
}

const number = (name, min) => el("input", { type: "number", name, min, inputmode: "numeric" });
