// Operations: builds, engines, what is loaded, where sessions are, what was used. Asked for anew while it is looked at.

import { call } from "/page/api.js";
import { el, table } from "/page/dom.js";
import { ago, count, counted } from "/page/figures.js";
import { Builds } from "/page/operations/builds.js";
import { Engines } from "/page/operations/engines.js";
import { Loaded } from "/page/operations/loaded.js";
import { Section } from "/page/operations/section.js";
import { addressOf, titleOf } from "/page/side.js";

const EVERY_MS = 5000;
const MOST_SESSIONS = 1000;
const SHOWN_SESSIONS = 20;
const TIERS = {
  resident: "in a slot of an engine",
  parked: "in the memory of its server",
  stored: "on disk, in the store, or to be computed again",
};

export class Operations {
  static async open(main, about) {
    const view = new Operations(main, about);
    await view.#refresh();
    view.timer = setInterval(() => document.hidden || view.#refresh(), EVERY_MS);
    return view;
  }

  constructor(main, about) {
    const refresh = () => this.#refresh();
    this.parts = [new Loaded(about.admin, refresh), new Builds(about.admin, refresh), new Engines(about.admin, refresh), new Section("Sessions", showSessions), new Section("Usage of 30 days", showUsage)];
    main.replaceChildren(el("div", { class: "operations" }, el("h1", {}, "Operations"), this.parts.map((part) => part.element)));
  }

  leave() {
    clearInterval(this.timer);
    for (const part of this.parts) part.leave?.();
  }

  async #refresh() {
    await Promise.all(this.parts.map((part) => part.refresh()));
  }
}

async function showSessions() {
  const { sessions, more } = await call("GET", `/api/sessions?limit=${MOST_SESSIONS}`);
  const tiers = Object.entries(TIERS).map(([state, says]) => {
    const here = sessions.filter((session) => session.state === state).length;
    return el("div", { class: `tier ${state}` }, el("dt", {}, state), el("dd", {}, el("b", {}, count(here)), el("span", { class: "hint" }, says)));
  });
  const rows = sessions
    .slice(0, SHOWN_SESSIONS)
    .map((session) => [
      el("a", { href: addressOf(session) }, titleOf(session)),
      session.engine,
      session.state,
      count(session.turns),
      count(session.position),
      session.owner,
      ago(session.last_active_time),
    ]);
  const rest = more ? `Of the ${count(MOST_SESSIONS)} that were active last.` : `${counted(sessions.length, "session")} in all.`;
  return [
    el("dl", { class: "tiers" }, tiers),
    table("Sessions", ["session", "engine", "state", "turns", "position", "owner", "last active"], rows, "No sessions."),
    el("p", { class: "hint" }, sessions.length > SHOWN_SESSIONS ? `The last ${SHOWN_SESSIONS} are listed. ${rest}` : rest),
  ];
}

async function showUsage() {
  const { usage } = await call("GET", "/api/usage");
  const rows = usage.map((used) => [used.day, used.principal, used.engine, count(used.turns), count(used.prompt_tokens), count(used.generated_tokens)]);
  return [table("Usage", ["day", "principal", "engine", "turns", "tokens fed", "tokens generated"], rows, "Nothing was used.")];
}
