// Published engines: their aliases, what their verification measured, and the acts on them.

import { call } from "/page/api.js";
import { button, confirmed, el, notice, table } from "/page/dom.js";
import { ago, count, counted, size } from "/page/figures.js";
import { Section } from "/page/operations/section.js";

const HEADS = ["engine", "aliases", "target", "size", "verified", "published", ""];

export class Engines extends Section {
  constructor(admin, changed) {
    super("Engines", () => this.#show());
    this.admin = admin;
    this.changed = changed;
  }

  async #show() {
    const { engines, more } = await call("GET", "/api/engines");
    const rows = engines.map((engine) => [
      el("span", {}, engine.reference, el("span", { class: "hint" }, [engine.owner, engine.signed && "signed"].filter(Boolean).join(" · "))),
      el("span", { class: "row wrap" }, engine.aliases.map((alias) => this.#alias(engine, alias))),
      `${engine.spec.target} ${engine.spec.precision}`,
      size(engine.size_bytes),
      verified(engine),
      ago(engine.create_time),
      el("span", { class: "row wrap" }, this.#acts(engine)),
    ]);
    return [table("Engines", HEADS, rows, "No engine was built yet."), more && el("p", { class: "hint" }, `The first ${count(engines.length)} are listed.`)].filter(Boolean);
  }

  #alias({ name }, alias) {
    const drop = async () => {
      if (!(await confirmed(`Delete the alias ${name}:${alias}?`, "Delete"))) return;
      await this.#change("DELETE", "/api/engines/alias", { name, alias });
    };
    const movable = this.admin && alias !== "latest";
    return el("span", { class: "chip" }, alias, movable && button("×", drop, { class: "quiet", "aria-label": `Delete alias ${alias}` }));
  }

  #acts(engine) {
    const { reference } = engine;
    const verify = async () => {
      const read = await call("POST", "/api/engines/verify", { reference });
      notice(`${reference}: ${counted(read.files, "file")}, ${size(read.size_bytes)}, as they were published`);
    };
    const load = async () => {
      await this.#change("PUT", "/api/loaded", { reference });
      notice(`${reference} is loaded`);
    };
    const named = (act) => ({ class: "quiet", "aria-label": `${act} ${reference}` });
    const all = [button("Check files", verify, named("Check files of"))];
    return this.admin ? [...all, button("Load", load, named("Load")), this.#aliasForm(reference)] : all;
  }

  #aliasForm(reference) {
    const input = el("input", { name: "alias", size: 8, placeholder: "alias", "aria-label": `New alias of ${reference}`, autocapitalize: "none" });
    const form = el("form", { class: "row" }, input, el("button", { type: "submit", class: "quiet" }, "Set"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value) this.#change("PUT", "/api/engines/alias", { reference, alias: input.value.trim() }).catch((error) => notice(error.message, "bad"));
    });
    return form;
  }

  async #change(method, path, body) {
    await call(method, path, body);
    document.activeElement.blur();
    await this.changed();
  }
}

function verified(engine) {
  const figures = Object.entries(engine.verification).sort(([first], [second]) => first.localeCompare(second));
  if (!figures.length) return "no figures";
  const rows = figures.flatMap(([name, value]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, String(Number(value.toPrecision(3))))]);
  const warnings = engine.warnings.map((text) => el("p", { class: "hint" }, text));
  return el("details", {}, el("summary", {}, engine.verified_on ? `on ${engine.verified_on}` : "figures"), el("dl", { class: "pairs" }, rows), warnings);
}
