// What tools answer: a field in the box of each call, sent together.

import { el, notice } from "/page/dom.js";
import { Field } from "/page/chat/field.js";

export class Results {
  /** `boxes` has the box of each of `calls`; `send(messages)` takes what was typed, as messages of role tool. */
  constructor(boxes, calls, send) {
    this.calls = calls;
    this.fields = calls.map(({ name }, index) => {
      const text = el("textarea", { name: "result", rows: 1, enterkeyhint: index + 1 < calls.length ? "next" : "send" });
      return new Field(`messages[${index}]`, `What ${name} answers`, text);
    });
    this.fields.forEach(({ element }, index) => boxes.children[index].append(element));
    this.form = el("form", { class: "answer" }, el("button", { type: "submit" }, calls.length > 1 ? "Send results" : "Send result"));
    boxes.append(this.form);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(send);
    });
    for (const { element, input } of this.fields) {
      element.classList.add("answer");
      input.addEventListener("keydown", (event) => this.#key(event));
    }
  }

  focus() {
    this.fields[0].input.focus();
  }

  refuse(error) {
    return this.fields.some((field) => field.refuse(error));
  }

  /** Gives back what was typed, where nothing is. */
  giveBack(messages) {
    this.fields.forEach(({ input }, index) => (input.value ||= messages[index]?.content ?? ""));
  }

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    const empty = this.fields.find(({ input }) => !input.value.trim());
    if (empty && empty.input !== event.target) empty.input.focus();
    else this.form.requestSubmit();
  }

  #submit(send) {
    const empty = this.fields.find(({ input }) => !input.value.trim());
    if (empty) return empty.say("This is empty: a tool that has nothing to say can answer null.");
    const messages = this.calls.map(({ id, name }, index) => ({ role: "tool", content: this.fields[index].input.value, tool_call_id: id, name }));
    send(messages).catch((error) => notice(error.message, "bad"));
  }
}
