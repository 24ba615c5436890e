// The tools that a conversation begins with, as JSON.

import { stored } from "/page/api.js";
import { el } from "/page/dom.js";
import { Field, parsed } from "/page/chat/field.js";

const EXAMPLE = '[{"name": "weather", "description": "How it is outside.", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}]';
const HINT =
  "A JSON list of functions with name, description and parameters, also as OpenAI’s clients write them. Nothing here runs them: where a reply calls one, you say what it answers.";
const last = stored("sinkserve-tools"); // for the next conversation too, and after a reload

export class ToolsField {
  /** `changed(names)` hears of the tools that are declared so far. */
  constructor(changed) {
    this.text = el("textarea", { name: "tools", rows: 4, spellcheck: "false", autocapitalize: "off", class: "code", placeholder: EXAMPLE });
    this.text.value = last.get() ?? "";
    this.field = new Field("tools", "Functions that replies may call", this.text, HINT);
    this.summary = el("summary", {});
    this.element = el("details", { open: this.text.value !== "" }, this.summary, this.field.element);
    this.changed = changed;
    this.text.addEventListener("input", () => this.#show());
    this.#show();
  }

  /** {tools}, or nothing where there are none. */
  get value() {
    return this.text.value.trim() ? { tools: parsed(this.text.value) } : {};
  }

  /** Whether they can be sent; else it says why not. */
  check() {
    const { tools } = this.value;
    if (tools instanceof Error) this.field.say(tools.message);
    else if (tools && !Array.isArray(tools)) this.field.say("This has to be a list: [{…}, {…}]");
    else return true;
    return false;
  }

  refuse(error) {
    return this.field.refuse(error);
  }

  #show() {
    const { tools } = this.value;
    const names = Array.isArray(tools) ? tools.map((tool) => tool?.name ?? tool?.function?.name).filter((name) => typeof name === "string") : [];
    this.summary.textContent = names.length ? `Tools: ${names.join(", ")}` : "Tools";
    if (this.text.value) last.set(this.text.value);
    else last.clear();
    this.changed(names);
  }
}
