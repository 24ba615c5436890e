// One turn: what was said, what was read again for it, the reply as it comes, and what may be done with it.

import { button, el } from "/page/dom.js";
import { parsed } from "/page/chat/field.js";
import { Results } from "/page/chat/results.js";
import { brief, count, counted } from "/page/figures.js";

const ENDINGS = {
  length: "stopped at the limit of tokens",
  tool_calls: "called tools",
  cancelled: "cancelled",
  context_full: "the window is full, and this conversation does not evict",
  error: "failed",
};
const SIGHTS = {
  sinks: "in the sinks",
  left: "has left the window",
  partly: "its beginning has left",
  visible: "",
};

export class Turn {
  /** `record` is a turn as the server lists it; `acts` are those of the chat. */
  constructor(record, acts) {
    this.id = record.turn_id;
    this.input = record.input;
    this.recalled = record.recalled ?? [];
    this.recalledTokens = record.usage?.recalled_tokens ?? 0;
    this.running = !record.reason;
    this.pinned = false;
    this.span = { start: 0, end: 0 };
    this.acts = acts;
    this.reply = document.createTextNode(record.reply);
    this.waiting = "";
    this.thought = document.createTextNode("");
    this.tools = el("div", { class: "tools" });
    this.calls = [];
    this.results = null; // the fields for what the called tools answer
    this.canBeSentAgain = record.can_be_sent_again ?? true;
    this.marks = el("p", { class: "marks" });
    this.recall = el("p", { class: "recall", hidden: true });
    this.figures = el("span", { class: "figures" });
    this.buttons = el("span", { class: "acts", role: "group", "aria-label": "Of this turn" });
    const touched = matchMedia("(hover: none)").matches; // nothing hovers there that could show them
    const held = touched ? el("details", {}, el("summary", { "aria-label": "Of this turn" }, "⋯"), this.buttons) : this.buttons;
    this.thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Thinking"), el("div", { class: "text" }, this.thought));
    this.replyBox = el("div", { class: "reply text" }, this.reply);
    const said = this.input.map(({ role, name, content }) => el("div", { class: `said text ${role}` }, name && [el("b", {}, name), " "], content));
    this.element = el("li", { class: "turn", id: `turn-${this.id}`, tabindex: -1 }, this.marks, said, this.recall, this.thinking, this.replyBox, this.tools, el("div", { class: "foot" }, this.figures, held));
    if (record.reasoning) this.#think(record.reasoning);
    record.tool_calls?.forEach((call, index) => this.#call({ index, ...call }));
    if (!this.running) this.#settle(record.reason, record.usage, 0, record.shortened);
    this.#state();
  }

  /** What was asked of the reply: what has to be JSON looks like it from the start. */
  expect({ response_format }) {
    this.replyBox.classList.toggle("code", Boolean(response_format?.json_schema));
  }

  /** A pass over its events begins: what came before is void. */
  start(started) {
    this.recalled = started.recalled;
    this.recalledTokens = started.recalled.reduce((sum, turn) => sum + turn.tokens, 0);
    this.reply.data = this.waiting = this.thought.data = "";
    this.tools.replaceChildren();
    this.calls = [];
    this.#say(started.attempt > 1 ? "the server was lost and starts this reply again" : "");
  }

  /** A piece of the reply; it is shown with the next frame. */
  append(delta) {
    this.waiting += delta.text ?? "";
    if (delta.reasoning) this.#think(delta.reasoning);
    for (const call of delta.tool_calls ?? []) this.#call(call);
  }

  /** Show what came since the last frame. */
  flush() {
    if (!this.waiting) return;
    this.reply.appendData(this.waiting);
    this.waiting = "";
  }

  finish(finished) {
    this.flush();
    this.running = false;
    this.recalledTokens = finished.usage.recalled_tokens;
    this.#settle(finished.reason, finished.usage, finished.tokens_per_second, false);
    if (finished.format_matched === false) this.figures.append(el("span", { class: "notice-line" }, "it ended before it was whole in its form"));
    if (finished.error) this.#say(`failed: ${finished.error.message}`, "problem");
    if (finished.notice) this.figures.append(el("span", { class: "notice-line" }, `forgotten: ${counted(finished.notice.end_position - finished.notice.start_position, "token")}`));
    this.#state();
  }

  /** Say something in the place of figures, with a way on if there is one. */
  interrupt(text, ...ways) {
    this.flush();
    this.#say(text, "problem", ...ways);
  }

  /** Where in the session it is: `before` is the record of the turn before, if that is shown, `position` the session's. */
  place(record, before, position) {
    const { prompt_tokens, generated_tokens } = record.usage;
    const end = record.reason ? record.usage.position : position;
    const start = before?.usage.position || (record.reason ? end - prompt_tokens - generated_tokens : end);
    this.span = { start: Math.max(0, Math.min(start, end)), end };
  }

  /** What of it the model sees, and whether a turn that it sees reads it again. */
  mark(sight, { pinned, again }) {
    this.pinned = pinned;
    this.element.dataset.sight = sight;
    const marks = [SIGHTS[sight], pinned && "pinned", again && "read again"].filter(Boolean);
    if (this.marks.textContent !== marks.join(" · ")) this.marks.replaceChildren(marks.join(" · "));
    const pin = this.buttons.querySelector(".pin");
    if (pin) {
      pin.textContent = pinned ? "Unpin" : "Pin";
      pin.setAttribute("aria-pressed", String(pinned));
    }
  }

  /** The turns that it reads again; `wordsOf` says how one is called. */
  name(wordsOf) {
    this.recall.hidden = !this.recalled.length;
    const named = this.recalled.map((turn) => {
      const words = brief(wordsOf(turn.turn_id) || turn.turn_id, 48);
      return button(`“${words}”`, () => this.acts.goTo(turn.turn_id), { class: "link" });
    });
    this.recall.replaceChildren(`read again, ${counted(this.recalledTokens, "token")}: `, ...named.flatMap((each) => [each, " "]));
  }

  #think(text) {
    this.thinking.hidden = false;
    this.thought.appendData(text);
  }

  /** A call of a tool, or a piece of one: its name comes with the first. */
  #call({ index, id, name, arguments: pieces }) {
    if (!this.calls[index]) {
      this.calls[index] = { id, name };
      this.tools.append(el("div", { class: "call" }, el("b", {}, name), " ", el("code", { class: "text" })));
    }
    this.tools.children[index].children[1].append(pieces);
  }

  #settle(reason, usage, speed, shortened) {
    const parts = [
      ENDINGS[reason],
      counted(usage.generated_tokens, "token"),
      speed && `${speed.toFixed(1)} tok/s`,
      `position ${count(usage.position)}`,
      usage.evicted_tokens && `${count(usage.evicted_tokens)} left`,
      shortened && "cut here, too long to show",
    ];
    if (isJson(this.reply.data)) this.replyBox.classList.add("code");
    this.#say(parts.filter(Boolean).join(" · "));
    if (reason === "tool_calls") this.results = new Results(this.tools, this.calls, (messages) => this.acts.answer(messages));
  }

  #say(text, kind = "", ...ways) {
    this.figures.className = `figures ${kind}`;
    this.figures.replaceChildren(text, ...ways);
  }

  #state() {
    this.element.toggleAttribute("aria-busy", this.running);
    this.element.classList.toggle("running", this.running);
    const acts = this.running ? [] : this.acts.of(this);
    this.buttons.replaceChildren(...acts.map(([label, act, kind]) => button(label, act, { class: `quiet ${kind ?? ""}` })));
  }
}

/** Whether a text is an object or a list of JSON. */
function isJson(text) {
  return /^\s*[{[]/.test(text) && !(parsed(text) instanceof Error);
}
