// The cache of a session, drawn: the sinks, the ring behind them, what has left, what was read again.

import { el, svg } from "/page/dom.js";
import { count, counted } from "/page/figures.js";

const RADIUS = 64;
const MOST_SQUARES = 16;

/** The session after `tokens` more, as the server will say it at the end of the turn. */
export function advanced(session, tokens) {
  const { sink_tokens: sinks, window_tokens: window } = session.options;
  const position = session.position + tokens;
  const start = Math.max(session.window_start_position, sinks + Math.max(0, position - sinks - window));
  return { ...session, position, window_start_position: start, evicted_tokens: Math.max(0, start - sinks) };
}

/** What of a turn the model sees: "sinks", "left", "partly" or "visible". */
export function sightOf(span, session) {
  const sinks = session.options.sink_tokens;
  if (span.end <= sinks) return "sinks";
  if (span.end <= session.window_start_position) return "left";
  return Math.max(span.start, sinks) < session.window_start_position ? "partly" : "visible";
}

/** Sinks, what has left, what is visible behind it, and the room that is left, each as a number of tokens. */
function partsOf(session) {
  const { sink_tokens, window_tokens } = session.options;
  const sinks = Math.min(sink_tokens, session.position);
  const visible = Math.max(0, session.position - Math.max(sinks, session.window_start_position));
  const room = session.evicted_tokens ? 0 : Math.max(0, window_tokens - visible);
  return { sinks, left: session.evicted_tokens, visible, room };
}

export class CachePicture {
  constructor() {
    this.strip = el("span", { class: "strip", "aria-hidden": "true" });
    this.words = el("span", { class: "words" });
    this.ring = svg("svg", { viewBox: "0 0 200 200", role: "img", "aria-label": "An empty ring" });
    this.legend = el("dl", { class: "legend" });
    this.element = el(
      "details",
      { class: "cache", open: matchMedia("(min-width: 70rem)").matches },
      el("summary", {}, el("span", { class: "unseen" }, "What the model sees: "), this.strip, this.words),
      el("div", { class: "picture" }, this.ring, this.legend),
    );
  }

  /** `spans` are turns as {start, end, recalled, turn_id}, the oldest first; `ring` is how many rows the engine's has. */
  draw(session, spans, ring) {
    const parts = partsOf(session);
    const recalled = spans.filter((span) => span.end > session.window_start_position).reduce((sum, span) => sum + span.recalled, 0);
    this.#drawStrip(parts);
    this.words.textContent = words(parts, recalled);
    this.#drawRing(session, spans, ring, parts);
    this.#drawLegend(session, parts, recalled);
  }

  #drawStrip(parts) {
    const kept = parts.sinks + parts.visible + parts.room;
    const shares = { ...parts, left: Math.min(parts.left, kept / 2) }; // a long past takes a third
    const shown = Object.entries(shares).filter(([, tokens]) => tokens);
    while (this.strip.children.length < shown.length) this.strip.append(el("i"));
    while (this.strip.children.length > shown.length) this.strip.lastChild.remove();
    shown.forEach(([name, tokens], place) => {
      const part = this.strip.children[place];
      part.className = name;
      part.style.flexGrow = tokens;
    });
  }

  #drawRing(session, spans, ring, parts) {
    const sinks = session.options.sink_tokens;
    const first = Math.max(sinks, session.window_start_position);
    const seen = spans.filter((span) => span.end > first);
    const known = seen.length ? Math.max(seen[0].start, first) : session.position;
    const arcs = seen.flatMap((span, place) => {
      const start = Math.max(span.start, first);
      const reread = Math.min(span.end, Math.max(start, span.start + span.recalled));
      return [[start, reread, "recalled"], [reread, span.end, place % 2 ? "visible odd" : "visible"]];
    });
    if (known > first) arcs.unshift([first, known, "visible"]); // turns before those that are shown
    this.ring.replaceChildren(
      svg("circle", { class: "track", cx: 100, cy: 100, r: RADIUS }),
      ...arcs.filter(([start, end]) => end > start).map(([start, end, kind]) => arc(start - sinks, end - sinks, ring, kind)),
      ...(parts.visible ? [head(session.position - sinks, ring)] : []),
      ...sinksOf(parts.sinks),
    );
    this.ring.setAttribute("aria-label", `${counted(parts.visible, "token")} in a ring of ${count(ring)}, and ${counted(parts.sinks, "sink")}`);
  }

  #drawLegend(session, parts, recalled) {
    const { window_tokens: window } = session.options;
    const rows = [
      ["sinks", "sinks", parts.sinks, "kept for ever"],
      ["left", "left", parts.left, "out of the model's sight"],
      ["visible", "visible", parts.visible, `of ${count(window)}, ${parts.visible >= window ? "full" : `${Math.round((100 * parts.visible) / window)}% full`}`],
      ["recalled", "read again", recalled, "of turns that had left"],
    ];
    const shown = rows.filter(([, , tokens]) => tokens);
    this.legend.replaceChildren(
      ...shown.flatMap(([kind, name, tokens, says]) => [
        el("dt", {}, el("i", { class: kind, "aria-hidden": "true" }), name),
        el("dd", {}, `${counted(tokens, "token")}, ${says}`),
      ]),
    );
  }
}

function words(parts, recalled) {
  if (!parts.sinks && !parts.visible) return "nothing was said yet";
  const texts = [`${count(parts.sinks + parts.visible)} seen`, parts.left && `${count(parts.left)} left`, recalled && `${count(recalled)} read again`];
  return texts.filter(Boolean).join(" · ");
}

const angle = (row, ring) => (2 * Math.PI * (row % ring)) / ring - Math.PI / 2;
const at = (radius, turned) => `${(100 + radius * Math.cos(turned)).toFixed(2)} ${(100 + radius * Math.sin(turned)).toFixed(2)}`;

function arc(start, end, ring, kind) {
  const full = Math.min(end - start, ring * 0.9999);
  const from = angle(start, ring);
  const to = from + (2 * Math.PI * full) / ring;
  return svg("path", { class: kind, d: `M ${at(RADIUS, from)} A ${RADIUS} ${RADIUS} 0 ${full * 2 > ring ? 1 : 0} 1 ${at(RADIUS, to)}` });
}

/** Where the next token is written. */
function head(row, ring) {
  const turned = angle(row, ring);
  return svg("path", { class: "head", d: `M ${at(RADIUS - 16, turned)} L ${at(RADIUS + 16, turned)}` });
}

/** The sinks, in the middle: a square each, or as many as there is room for. */
function sinksOf(sinks) {
  const squares = Math.min(sinks, MOST_SQUARES);
  const columns = Math.ceil(Math.sqrt(squares));
  const top = 92 - Math.ceil(squares / (columns || 1)) * 5;
  const cells = Array.from({ length: squares }, (_, place) =>
    svg("rect", { class: "sinks", x: 101 - columns * 5 + (place % columns) * 10, y: top + Math.floor(place / columns) * 10, width: 8, height: 8, rx: 1.5 }),
  );
  return sinks ? [...cells, svg("text", { x: 100, y: 124 }, counted(sinks, "sink"))] : [];
}
