// A conversation: its turns, what the model sees of them, and the turn that runs.

import { call, stored } from "/page/api.js";
import { advanced, CachePicture, sightOf } from "/page/chat/cache.js";
import { Composer } from "/page/chat/composer.js";
import { button, confirmed, el, notice } from "/page/dom.js";
import { counted } from "/page/figures.js";
import { ended, spokenTo } from "/page/chat/elsewhere.js";
import { follow } from "/page/chat/follow.js";
import { addressOf, titleOf } from "/page/side.js";
import { Speaker } from "/page/chat/speaker.js";
import { Turn } from "/page/chat/turn.js";

const STEP = 50;

export class Chat {
  static async open(main, name, side) {
    const [session, { engines }] = await Promise.all([call("GET", `/api/${name}`), call("GET", "/api/loaded").catch(() => ({ engines: [] }))]);
    const chat = new Chat(main, session, engines, side);
    await chat.#load();
    chat.#resume();
    chat.#hear();
    return chat;
  }

  #left = new AbortController();
  #framed = false;
  #followed = null; // the turn that was sent, or is waited for
  #limit = STEP;

  constructor(main, session, engines, side) {
    this.session = session;
    this.path = `/api/${session.name}`;
    this.following = stored(session.name); // the turn that this tab follows, so that it is followed again after a reload
    this.side = side;
    this.cache = engines.find(({ reference }) => reference === session.engine)?.cache;
    this.turns = [];
    this.speaker = new Speaker(document.querySelector("#spoken"));
    this.picture = new CachePicture();
    this.list = el("ol", { class: "turns" });
    this.earlier = button("Earlier turns", () => this.#showEarlier(), { class: "quiet", hidden: true });
    this.line = el("li", { class: "line" }, "what follows the model sees whole");
    this.scroll = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Conversation" }, this.earlier, this.list);
    this.composer = new Composer((text, generation) => this.#say(text, generation));
    this.composer.form.tools(session.tools);
    this.acts = { of: (turn) => this.#actsOf(turn), goTo: (id) => this.#goTo(id), answer: (messages) => this.#answer(messages) };
    const head = el(
      "header",
      { class: "bar" },
      el("h1", {}, titleOf(session)),
      el("span", { class: "hint" }, `${session.engine} · ${session.name.replace("sessions/", "")}`),
      button("Fork", () => this.#fork(""), { class: "quiet", title: "Go on in a copy; this one stays as it is" }),
    );
    main.replaceChildren(el("div", { class: "chat with-cache" }, head, this.picture.element, this.scroll, this.composer.element));
    this.composer.focus();
  }

  leave() {
    this.#left.abort();
    this.speaker.stop();
  }

  async #load() {
    const { turns, earlier } = await call("GET", `${this.path}/turns?limit=${this.#limit}`);
    const shown = new Map(this.turns.map((turn) => [turn.id, turn])); // with what is typed in their fields
    this.turns = turns.map((record) => shown.get(record.turn_id) ?? new Turn(record, this.acts));
    turns.forEach((record, place) => this.turns[place].place(record, turns[place - 1], this.session.position));
    if (this.#followed?.running && !this.turns.includes(this.#followed)) this.turns.push(this.#followed); // on its way
    const { scrollTop } = this.scroll;
    const atEnd = this.#isAtEnd;
    const elements = this.turns.map((turn) => turn.element);
    const listed = [...this.list.children].filter((each) => each !== this.line);
    if (String(elements.map(({ id }) => id)) !== String(listed.map(({ id }) => id))) this.list.replaceChildren(...elements); // else nothing loses the focus
    this.earlier.hidden = !earlier;
    this.#draw();
    this.scroll.scrollTop = atEnd ? this.scroll.scrollHeight : scrollTop;
  }

  async #showEarlier() {
    const height = this.scroll.scrollHeight;
    this.#limit = Math.min(1000, this.#limit * 4);
    await this.#load();
    this.scroll.scrollTop = this.scroll.scrollHeight - height;
  }

  /** Follow the turn that this tab followed, or wait for one that somebody else follows. */
  #resume() {
    const body = this.following.get();
    const last = this.turns.at(-1);
    const known = this.turns.find((turn) => turn.id === body?.turn_id);
    if (body && (!known || known.running)) this.#run(body, known).catch((error) => notice(error.message, "bad"));
    else if (last?.running) this.#await(last).catch((error) => notice(error.message, "bad"));
    if (body && known && !known.running) this.following.clear();
  }

  /** Resolves to whether there is such a turn, once it has ended, or when nobody waits any more. */
  async #await(turn) {
    this.#followed = turn;
    turn.interrupt("runs, and is followed elsewhere: its reply is shown when it has ended");
    this.composer.running(() => call("DELETE", this.#pathOf(turn)));
    const isThere = await ended(this.#pathOf(turn), this.#left.signal);
    if (this.#left.signal.aborted) return true;
    this.#drop(turn);
    this.composer.running(null);
    if (!isThere) return false;
    this.following.clear();
    await this.#refresh();
    return true;
  }

  /** Show what others say in this conversation. */
  async #hear() {
    const known = () => (this.#followed?.running ? null : (this.turns.findLast((turn) => !turn.running)?.id ?? ""));
    while (!this.#left.signal.aborted) {
      await spokenTo(this.path, known, this.#left.signal);
      if (!this.#left.signal.aborted) await this.#refresh().catch(() => {}); // it is asked for again
    }
  }

  /** Show what is there, and wait for the end of a turn that somebody else follows. */
  async #refresh() {
    this.session = await call("GET", this.path);
    await this.#load();
    const last = this.turns.at(-1);
    if (last?.running && last !== this.#followed) await this.#await(last);
  }

  async #say(text, generation) {
    await this.#run({ turn_id: crypto.randomUUID(), text, ...generation });
  }

  /** Give results of tools. What was forced of the turn that called them is not forced again. */
  async #answer(messages) {
    const { tool_choice, ...generation } = this.composer.generation;
    await this.#run({ turn_id: crypto.randomUUID(), messages, ...generation, ...(tool_choice === "none" ? { tool_choice } : {}) });
  }

  /** One turn, to its end. */
  async #run(body, known) {
    const input = body.messages ?? [{ role: "user", content: body.text }];
    const turn = known ?? new Turn({ turn_id: body.turn_id, input, reply: "", reason: "" }, this.acts);
    if (!known) {
      turn.span = { start: this.session.position, end: this.session.position };
      this.turns.push(turn);
      this.list.append(turn.element);
      this.#toEnd();
    }
    turn.expect(body);
    this.following.set(body);
    this.composer.running(() => call("DELETE", this.#pathOf(turn)));
    this.#followed = turn;
    const before = this.session;
    const heard = {
      started: (started) => {
        this.session = advanced(before, started.prompt_tokens);
        turn.start(started);
        turn.span = { start: before.position, end: this.session.position };
        turn.name((id) => this.#wordsOf(id));
        this.#frame(turn);
      },
      delta: (delta) => {
        turn.append(delta);
        this.session = advanced(this.session, delta.tokens);
        turn.span.end = this.session.position;
        this.speaker.hear(delta.text ?? "");
        this.#frame(turn);
      },
      finished: (finished) => {
        this.following.clear();
        this.session = advanced(this.session, finished.usage.position - this.session.position);
        turn.span.end = finished.usage.position;
        turn.finish(finished);
        if (turn.results) this.speaker.hear(` It calls ${turn.calls.map(({ name }) => name).join(", ")}.`);
        this.speaker.end();
        this.composer.running(null); // the next may be said before the session is told
        if (this.composer.isIdle) turn.results?.focus();
      },
      session: (session) => {
        if (this.#followed !== turn) return;
        this.session = session;
        if (session.turns > before.turns + 1) this.#refresh().catch(() => {}); // somebody else spoke just before
      },
      lost: (why) => turn.interrupt(why),
    };
    const ending = await follow(`${this.path}/turns`, body, heard, this.#left.signal);
    if (ending.left || this.#followed !== turn) return;
    if (ending.elsewhere) return (await this.#await(turn)) || this.#run(body); // it may not have been heard at all
    this.composer.running(null);
    if (ending.refused) {
      this.following.clear();
      this.#drop(turn);
      const { results } = this.turns.at(-1) ?? {};
      if (results && body.messages) results.giveBack(body.messages);
      const text = body.text ?? (results ? "" : input.map(({ content }) => content).join("\n"));
      return this.composer.refused(text, ending.refused, results);
    }
    if (ending.lost) turn.interrupt(`${ending.lost.message} `, button("Follow it again", () => this.#run(body, turn), { class: "quiet" }));
    this.#draw();
    this.#toEnd();
    this.side.load().catch(() => {});
  }

  #pathOf(turn) {
    return `${this.path}/turns/${encodeURIComponent(turn.id)}`;
  }

  #drop(turn) {
    if (this.#followed === turn) this.#followed = null;
    this.turns = this.turns.filter((each) => each !== turn);
    turn.element.remove();
  }

  #actsOf(turn) {
    const pin = async () => {
      this.session = await call(turn.pinned ? "DELETE" : "PUT", `${this.#pathOf(turn)}/pin`);
      this.#draw();
    };
    return [
      [turn.pinned ? "Unpin" : "Pin", pin, "pin"],
      ["Fork here", () => this.#fork(turn.id)],
      ["Rewind to here", () => this.#rewind(turn, false)],
      ...(turn.canBeSentAgain ? [["Ask again", () => this.#askAgain(turn), "only-last"]] : []),
    ];
  }

  async #fork(turnId) {
    const session = await call("POST", `${this.path}/fork`, { turn_id: turnId });
    this.side.load().catch(() => {});
    location.hash = addressOf(session);
  }

  async #rewind(turn, dropTurn) {
    const dropped = this.turns.length - this.turns.indexOf(turn) - (dropTurn ? 0 : 1);
    if (!dropped) return true;
    if (!(await confirmed(`Drop the last ${counted(dropped, "turn")}, for ever?`, "Drop"))) return false;
    this.session = await call("POST", `${this.path}/rewind`, { turn_id: turn.id, drop_turn: dropTurn });
    this.#followed = null; // the last one is gone
    this.composer.running(null);
    await this.#load();
    return true;
  }

  async #askAgain(turn) {
    const [{ role, content }] = turn.input;
    if (!(await this.#rewind(turn, true))) return;
    if (role === "user" && turn.input.length === 1) await this.#say(content, this.composer.generation);
    else await this.#answer(turn.input);
  }

  #goTo(id) {
    const turn = this.turns.find((each) => each.id === id);
    if (!turn) throw new Error("That turn is earlier than those that are shown: “Earlier turns” has it.");
    turn.element.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    turn.element.focus({ preventScroll: true });
  }

  #wordsOf(id) {
    return this.turns.find((turn) => turn.id === id)?.input[0]?.content ?? "";
  }

  /** Show what came, at most once a frame. */
  #frame(turn) {
    if (this.#framed) return;
    this.#framed = true;
    requestAnimationFrame(() => {
      this.#framed = false;
      const atEnd = this.#isAtEnd;
      turn.flush();
      this.#draw();
      if (atEnd) this.#toEnd();
    });
  }

  get #isAtEnd() {
    return this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 60;
  }

  #toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  #draw() {
    const { session } = this;
    const sinks = session.options.sink_tokens;
    const again = new Set(this.turns.filter((turn) => turn.span.end > session.window_start_position).flatMap((turn) => turn.recalled.map(({ turn_id }) => turn_id)));
    for (const turn of this.turns) {
      const sight = turn.span.end > turn.span.start || turn.running ? sightOf(turn.span, session) : "visible";
      turn.mark(sight, { pinned: session.pinned_turns.includes(turn.id), again: again.has(turn.id) && sight !== "visible" });
      if (turn.recalled.length && turn.recall.hidden) turn.name((id) => this.#wordsOf(id));
    }
    const oldest = session.evicted_tokens && this.turns.find((turn) => turn.span.start >= Math.max(sinks, session.window_start_position));
    if (oldest) oldest.element.before(this.line);
    else this.line.remove();
    const ring = this.cache ? this.cache.window_tokens + this.cache.chunk_tokens - 1 : session.options.window_tokens;
    const spans = this.turns.map((turn) => ({ ...turn.span, recalled: turn.recalledTokens }));
    if (ring) this.picture.draw(session, spans, ring);
  }
}
