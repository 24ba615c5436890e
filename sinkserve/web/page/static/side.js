// The list of conversations, the last active first.

import { call } from "/page/api.js";
import { button, confirmed, el } from "/page/dom.js";
import { ago, counted } from "/page/figures.js";

const STEP = 50;

/** How a session is called: by its label `title`, or that of OpenAI's clients, else by its id. */
export const titleOf = (session) => session.labels.title || session.labels["openai.title"] || session.name.replace("sessions/", "").slice(0, 18);

export const addressOf = (session) => `#/${session.name}`;

export class Side {
  constructor(element) {
    this.list = el("ul", { class: "sessions" });
    this.more = button("Show more", () => this.load(this.limit + STEP), { class: "quiet", hidden: true });
    this.limit = STEP;
    element.replaceChildren(el("a", { class: "new", href: "#/" }, "New conversation"), this.list, this.more);
  }

  async load(limit = this.limit) {
    const { sessions, more } = await call("GET", `/api/sessions?limit=${limit}`);
    this.limit = limit;
    this.more.hidden = !more;
    this.list.replaceChildren(...sessions.map((session) => this.#item(session)));
    if (!sessions.length) this.list.append(el("li", { class: "empty" }, "No conversations yet."));
    this.mark();
  }

  /** Mark the one that is open. */
  mark() {
    for (const link of this.list.querySelectorAll("a")) {
      if (link.hash === location.hash) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #item(session) {
    const about = `${counted(session.turns, "turn")} · ${ago(session.last_active_time)} · ${session.engine}`;
    return el(
      "li",
      {},
      el("a", { href: addressOf(session) }, el("span", { class: "title" }, titleOf(session)), el("span", { class: "hint" }, about)),
      button("×", () => this.#delete(session), { class: "quiet delete", "aria-label": `Delete ${titleOf(session)}` }),
    );
  }

  async #delete(session) {
    if (!(await confirmed(`Delete “${titleOf(session)}” with its ${counted(session.turns, "turn")}, for ever?`, "Delete"))) return;
    await call("DELETE", `/api/${session.name}`);
    if (location.hash === addressOf(session)) location.hash = "#/";
    await this.load();
  }
}
