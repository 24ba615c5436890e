// A field, and beside it what was wrong with it.

import { el } from "/page/dom.js";

let made = 0; // so that each has an id of its own

export class Field {
  /** `param` is what the server calls it in what it refuses. */
  constructor(param, label, input, hint) {
    this.param = param;
    this.input = input;
    this.problem = el("p", { class: "problem", role: "alert", id: `problem-${++made}` });
    this.element = el("div", { class: "field" }, el("label", {}, el("span", {}, label), input, hint && el("span", { class: "hint" }, hint)), this.problem);
    input.setAttribute("aria-describedby", this.problem.id);
    input.addEventListener("input", () => this.say(""));
  }

  /** Says what is wrong; empty: nothing is. */
  say(problem) {
    this.problem.textContent = problem;
    this.input.setAttribute("aria-invalid", String(Boolean(problem)));
    if (!problem) return;
    for (let around = this.element; around; around = around.parentElement) if (around.tagName === "DETAILS") around.open = true;
    this.input.focus();
  }

  /** Whether what was refused is this field, which says so then. */
  refuse(error) {
    const isThis = error.param === this.param || error.param?.startsWith(`${this.param}.`) || error.param?.startsWith(`${this.param}[`);
    if (isThis) this.say(error.message);
    return Boolean(isThis);
  }
}

/** What a text of JSON says, or an Error that says where it is none. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return new Error(`This is no JSON: ${error.message}`);
  }
}
