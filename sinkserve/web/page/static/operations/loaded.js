// What the runtime has in memory, and what it could not load.

import { call } from "/page/api.js";
import { button, el, notice, table } from "/page/dom.js";
import { ago, count, counted } from "/page/figures.js";
import { Section } from "/page/operations/section.js";

const HEADS = ["engine", "slots", "turns", "window", "golden margin", "loaded", ""];

export class Loaded extends Section {
  constructor(admin, changed) {
    super("Loaded engines", () => this.#show());
    this.admin = admin;
    this.changed = changed;
  }

  async #show() {
    const { engines, refused } = await call("GET", "/api/loaded");
    const rows = engines.map((engine) => [
      engine.reference,
      this.#slots(engine),
      count(engine.turns),
      `${counted(engine.cache.sink_tokens, "sink")} + ${count(engine.cache.window_tokens)}`,
      engine.golden_margin === null ? "not checked" : count(Number(engine.golden_margin.toPrecision(3))),
      ago(engine.load_time),
      this.admin ? button("Unload", () => this.#unload(engine), { class: "quiet", "aria-label": `Unload ${engine.reference}` }) : "",
    ]);
    const problems = refused.map(({ reference, error }) => el("p", { class: "problem" }, `${reference} could not be loaded: ${error.message}`));
    return [table("Loaded engines", HEADS, rows, "No engine is loaded."), ...problems];
  }

  #slots({ slots, slots_in_use: used }) {
    const meter = el("meter", { min: 0, max: slots, value: used, "aria-label": "slots in use" });
    return el("span", { class: "row" }, meter, `${count(used)} of ${count(slots)}`);
  }

  async #unload({ reference }) {
    await call("DELETE", "/api/loaded", { reference });
    notice(`${reference} is unloaded`);
    document.activeElement.blur();
    await this.changed();
  }
}
