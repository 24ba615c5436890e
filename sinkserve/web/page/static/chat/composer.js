// Where a person types: Enter sends, Shift+Enter begins a line, Escape ends the reply.

import { el, notice } from "/page/dom.js";
import { ReplyForm } from "/page/chat/reply_form.js";

const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 10, step: "any" }],
  ["top_p", "Top p", { min: 0, max: 1, step: "any" }],
  ["max_new_tokens", "Most tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { min: 0, step: 1 }],
];

let chosen = {}; // what was last typed of these, for the next conversation too

export class Composer {
  #stop = null;

  /** `send(text, generation)` takes what was typed; where it throws, the text comes back. */
  constructor(send) {
    this.send = send;
    this.text = el("textarea", { name: "text", rows: 1, "aria-label": "Message", placeholder: "Say something", enterkeyhint: "send" });
    this.button = el("button", { type: "submit", class: "main" }, "Send");
    this.numbers = NUMBERS.map(([name, label, bounds]) => [label, el("input", { type: "number", name, placeholder: "default", value: chosen[name], ...bounds })]);
    this.summary = el("summary", {});
    this.form = new ReplyForm();
    this.parts = [this.form]; // that say themselves what is wrong with them
    this.element = el(
      "form",
      { class: "composer", novalidate: true },
      el("div", { class: "row" }, this.text, this.button),
      el(
        "div",
        { class: "row wrap asides" },
        el(
          "details",
          { class: "sampling" },
          this.summary,
          el("div", { class: "grid" }, this.numbers.map(([label, input]) => el("label", {}, el("span", {}, label), input))),
        ),
        this.form.element,
      ),
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#stop) this.#end();
      else this.#submit();
    });
    this.text.addEventListener("keydown", (event) => this.#key(event));
    this.text.addEventListener("input", () => this.#grow());
    for (const [, input] of this.numbers) input.addEventListener("input", () => this.#choose());
    this.#choose();
  }

  focus() {
    if (matchMedia("(hover: hover)").matches) this.text.focus(); // elsewhere it would open a keyboard
  }

  /** Whether the person is here, and types nothing. */
  get isIdle() {
    return document.activeElement === this.text && !this.text.value;
  }

  enabled(enabled) {
    this.text.disabled = this.button.disabled = !enabled;
  }

  /** While a reply runs the button ends it; null: none runs. */
  running(stop) {
    this.#stop = stop;
    this.button.textContent = stop ? "Stop" : "Send";
    this.button.classList.toggle("danger", Boolean(stop));
  }

  /** Says why, beside what was refused if it is one of the parts or `part`, and gives back what was typed, if nothing was since. */
  refused(text, error, part) {
    if (!this.text.value) this.text.value = text;
    this.#grow();
    if (![part, ...this.parts].some((each) => each?.refuse(error))) notice(error.message, "bad");
  }

  get generation() {
    return { ...this.#sampling, ...this.form.value };
  }

  get #sampling() {
    const given = this.numbers.map(([, input]) => input).filter((input) => input.value !== "");
    return Object.fromEntries(given.map((input) => [input.name, Number(input.value)]));
  }

  #choose() {
    chosen = this.#sampling;
    const set = this.numbers.filter(([, input]) => input.value !== "").map(([label, input]) => `${label.toLowerCase()} ${input.value}`);
    this.summary.textContent = set.length ? `Sampling: ${set.join(", ")}` : "Sampling";
  }

  #key(event) {
    if (event.key === "Escape" && this.#stop) this.#end();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#stop) this.#submit();
  }

  #end() {
    this.#stop().catch((error) => notice(error.message, "bad"));
  }

  async #submit() {
    const text = this.text.value;
    if (!text.trim()) return;
    const wrong = this.numbers.find(([, input]) => !input.checkValidity());
    if (wrong) return notice(`${wrong[0]}: ${wrong[1].validationMessage}`, "bad");
    if (!this.parts.every((part) => part.check())) return;
    this.text.value = "";
    this.#grow();
    try {
      await this.send(text, this.generation);
    } catch (error) {
      this.refused(text, error);
    }
  }

  #grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight + 2, 200)}px`;
  }
}
