import { el } from "/page/dom.js";

/** A part whose content is made anew each time, and says why where it cannot be had. */
export class Section {
  constructor(title, show) {
    this.show = show;
    this.content = el("div", { class: "content" }, el("p", { class: "empty" }, "…"));
    this.element = el("section", { "aria-label": title }, el("h2", {}, title), this.content);
  }

  async refresh() {
    if (this.content.contains(document.activeElement)) return; // nothing moves under somebody's fingers
    try {
      this.content.replaceChildren(...(await this.show()));
    } catch (error) {
      this.content.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }
}
