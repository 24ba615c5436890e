// Builds, those that run with what they do now.

import { call, events } from "/page/api.js";
import { button, confirmed, el, table } from "/page/dom.js";
import { ago, count, duration, size } from "/page/figures.js";
import { Section } from "/page/operations/section.js";

const HEADS = ["build", "target", "state", "progress", "submitted", ""];
const MOST_LINES = 200;
const RUNS = new Set(["queued", "running"]);

export class Builds extends Section {
  constructor(admin, changed) {
    super("Builds", () => this.#show());
    this.admin = admin;
    this.changed = changed;
    this.watched = new Map(); // by name, those that run
    this.left = new AbortController();
  }

  leave() {
    this.left.abort();
  }

  async #show() {
    const { builds, more } = await call("GET", "/api/builds");
    const rows = builds.map((build) => {
      const live = RUNS.has(build.state) ? this.#watch(build) : null;
      return [
        el("span", {}, build.spec.name, el("span", { class: "hint" }, build.name.replace("builds/", "").slice(0, 8))),
        `${build.spec.target} ${build.spec.precision}`,
        build.state,
        live ? live.element : ending(build),
        ago(build.create_time),
        live ? button("Cancel", () => this.#cancel(build), { class: "quiet", "aria-label": `Cancel the build of ${build.spec.name}` }) : "",
      ];
    });
    return [table("Builds", HEADS, rows, "Nothing was built yet."), more && el("p", { class: "hint" }, `The newest ${count(builds.length)} are listed.`)].filter(Boolean);
  }

  /** The progress of a build, which goes on while the table around it is made anew. */
  #watch(build) {
    if (!this.watched.has(build.name)) {
      const live = new Progress(build);
      this.watched.set(build.name, live);
      live.follow(this.left.signal).finally(() => {
        this.watched.delete(build.name);
        if (!this.left.signal.aborted) this.changed();
      });
    }
    return this.watched.get(build.name);
  }

  async #cancel({ name, spec }) {
    if (!(await confirmed(`Cancel the build of ${spec.name}?`, "Cancel the build"))) return;
    await call("DELETE", `/api/${name}`);
    document.activeElement.blur();
    await this.changed();
  }
}

class Progress {
  constructor(build) {
    this.path = `/api/${build.name}/events`;
    this.bar = el("progress", { max: 1, value: build.progress, "aria-label": `Progress of ${build.spec.name}` });
    this.words = el("span", { class: "hint" }, build.stage || build.state);
    this.lines = el("pre", { tabindex: 0, "aria-label": "Log" });
    this.element = el("div", { class: "live" }, this.bar, this.words, el("details", {}, el("summary", {}, "Log"), this.lines));
  }

  async follow(signal) {
    try {
      for await (const { name, data } of events("GET", this.path, undefined, signal)) {
        if (name === "progress") this.#show(data);
        if (name === "log") this.#log(data.text);
        if (name === "error") this.words.textContent = data.message;
      }
    } catch (error) {
      if (!signal.aborted) this.words.textContent = error.message;
    }
  }

  #show({ stage, progress, bytes_done, bytes_total, remaining_s }) {
    this.bar.value = progress;
    const parts = [
      `${Math.round(100 * progress)}%`,
      stage,
      bytes_total && `${size(bytes_done)} of ${size(bytes_total)}`,
      remaining_s !== null && `about ${duration(remaining_s)} left`,
    ];
    this.words.textContent = parts.filter(Boolean).join(" · ");
  }

  #log(text) {
    this.lines.append(`${text}\n`);
    while (this.lines.childNodes.length > MOST_LINES) this.lines.firstChild.remove();
  }
}

function ending(build) {
  if (build.error) return el("span", { class: "problem" }, build.error.message);
  const took = build.start_time && build.end_time ? `in ${duration((Date.parse(build.end_time) - Date.parse(build.start_time)) / 1000)}` : "";
  return [build.engine, took].filter(Boolean).join(" · ");
}
