// What a reply has to be: any text, or text in a form; and what it calls.

import { el } from "/page/dom.js";
import { Field, parsed } from "/page/chat/field.js";
import { stored } from "/page/api.js";

const lines = (text) => text.split("\n").filter((line) => line.trim());

/** By name on the wire: how it is called, what its field shows while it is empty, and what the text in it comes to. */
const KINDS = {
  json_schema: ["JSON schema", '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}', (text) => text],
  regex: ["Regular expression", "[0-9]{4}-[0-9]{2}-[0-9]{2}", (text) => text],
  choice: ["Choice", "One text a line, of which the reply is one", lines],
  grammar: ["Grammar", 'start: "yes" | "no"', (text) => text],
};
const CHOICES = [
  ["", "what the model decides"],
  ["none", "nothing"],
  ["required", "at least one tool"],
];
const last = stored("sinkserve-form"); // for the next conversation too, and after a reload

export class ReplyForm {
  constructor() {
    const { kind = "", texts = {} } = last.get() ?? {};
    this.texts = texts; // of each kind, so that looking at another one loses nothing
    this.kind = el("select", { name: "form" }, el("option", { value: "" }, "Any text"), Object.entries(KINDS).map(([name, [label]]) => el("option", { value: name }, label)));
    this.kind.value = kind in KINDS ? kind : "";
    this.text = el("textarea", { name: "form_text", rows: 4, spellcheck: "false", autocapitalize: "off", class: "code" });
    this.field = new Field("response_format", "Which", this.text);
    this.summary = el("summary", {});
    this.choice = el("select", { name: "tool_choice" });
    this.calls = new Field("tool_choice", "It calls", this.choice);
    const label = el("label", {}, el("span", {}, "A reply is"), this.kind);
    this.element = el("details", { class: "form" }, this.summary, el("div", { class: "grid" }, label, this.calls.element), this.field.element);
    this.kind.addEventListener("change", () => this.#show());
    this.choice.addEventListener("input", () => this.#summarize());
    this.tools([]);
    this.text.addEventListener("input", () => this.#keep());
    this.#show();
  }

  /** The tools that the conversation has, by name. */
  tools(names) {
    const chosen = this.choice.value;
    const choices = [...CHOICES, ...names.map((name) => [name, name])];
    this.choice.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
    this.choice.value = choices.some(([value]) => value === chosen) ? chosen : "";
    this.calls.element.hidden = !names.length;
    if (!names.length) this.choice.value = "";
    this.#summarize();
  }

  /** {response_format, tool_choice}, without what is left as it is. */
  get value() {
    const kind = this.kind.value;
    const form = kind ? { response_format: { [kind]: KINDS[kind][2](this.text.value) } } : {};
    return this.choice.value ? { ...form, tool_choice: this.choice.value } : form;
  }

  refuse(error) {
    return this.field.refuse(error) || this.calls.refuse(error);
  }

  /** Whether the form can be sent; else it says why not. */
  check() {
    const kind = this.kind.value;
    const wrong = kind === "json_schema" && this.text.value.trim() && parsed(this.text.value);
    if (wrong instanceof Error) this.field.say(wrong.message);
    else if (kind && !this.text.value.trim()) this.field.say("This is empty: say which, or choose “Any text”.");
    else return true;
    return false;
  }

  #show() {
    const kind = this.kind.value;
    this.field.element.hidden = !kind;
    this.field.say("");
    this.text.value = this.texts[kind] ?? "";
    this.text.placeholder = kind && KINDS[kind][1];
    this.field.element.querySelector("label span").textContent = kind && KINDS[kind][0];
    this.#summarize();
    this.#keep();
  }

  #summarize() {
    const kind = this.kind.value;
    const chosen = [kind && KINDS[kind][0], this.choice.value && `calls ${this.choice.selectedOptions[0].textContent}`].filter(Boolean);
    this.summary.textContent = chosen.length ? `Form: ${chosen.join(", ")}` : "Form";
  }

  #keep() {
    const kind = this.kind.value;
    if (kind) this.texts[kind] = this.text.value;
    if (kind || Object.keys(this.texts).length) last.set({ kind, texts: this.texts });
  }
}
