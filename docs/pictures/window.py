"""Draws docs/pictures/window.svg: what of a conversation is in the cache, and in which row. `make pictures`.

The rows are those of `common.window`, for a geometry small enough to be seen whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.window import Geometry, SessionWindow, row, visible_rows

PICTURE = Path(__file__).with_suffix(".svg")
GEOMETRY = Geometry(sinks=4, window=12, chunk=4, slots=1)
WINDOW = SessionWindow(sinks=4, window=12)
POSITION = 27
"""The newest token."""

CELL, LEFT, WIDTH, HEIGHT = 27, 24, 804, 272
TEXT_TOP, CACHE_TOP = 44, 154
SINK, RECENT, EVICTED, STALE, EMPTY = "#f2b134", "#4f9ddb", "#e3e6ea", "#cfd5dc", "#ffffff"


def draw() -> str:
    """The picture, as SVG."""
    parts = [*_text(), *_cache(), *_legend()]
    return "\n".join([_HEAD, *parts, "</svg>", ""])


_HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
     aria-label="Of a conversation, the first tokens and the last ones lie in the cache; those between have left.">
<style>
  text {{ font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933; }}
  .number {{ font-size: 11px; text-anchor: middle; }}
  .gone {{ fill: #8b96a3; }}
  .title {{ font-weight: 600; }}
</style>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="#cfd5dc"/>"""


def _text() -> Iterator[str]:
    """The conversation: every token so far."""
    evicted = WINDOW.evicted(POSITION + 1)
    yield _label(LEFT, TEXT_TOP - 14, "The conversation, one cell a token", "title")
    for position in range(POSITION + 1):
        gone = WINDOW.sinks <= position < WINDOW.sinks + evicted
        colour = EVICTED if gone else _seen(position)
        yield from _cell(position, TEXT_TOP, colour, str(position), gone=gone)
    yield _span(0, WINDOW.sinks, TEXT_TOP, f"{WINDOW.sinks} sinks")
    yield _span(WINDOW.sinks, evicted, TEXT_TOP, f"evicted: {evicted} tokens, no longer seen")
    yield _span(WINDOW.sinks + evicted, WINDOW.window, TEXT_TOP, f"window: the last {WINDOW.window} tokens")


def _cache() -> Iterator[str]:
    """The rows of the cache, each with the token that it holds."""
    yield _label(LEFT, CACHE_TOP - 14, "Its cache, one cell a row: it never grows", "title")
    held = {row(GEOMETRY, WINDOW.sinks, position): position for position in range(POSITION + 1)}
    seen = {index for rows in visible_rows(GEOMETRY, WINDOW, POSITION) for index in rows}
    for index in range(GEOMETRY.rows):
        left = STALE if index in held else EMPTY
        colour = _seen(held[index]) if index in seen else left
        yield from _cell(index, CACHE_TOP, colour, str(held.get(index, "")), gone=colour == STALE)
    newest = LEFT + (row(GEOMETRY, WINDOW.sinks, POSITION) + 0.5) * CELL
    yield f'<path d="M{newest} {CACHE_TOP - 14} v12 m-4 -5 l4 5 l4 -5" fill="none" stroke="#1f2933"/>'
    yield _label(newest + 10, CACHE_TOP - 6, "newest")
    yield _span(GEOMETRY.sinks, GEOMETRY.ring, CACHE_TOP, f"ring of {GEOMETRY.ring} rows, written round and round")


def _legend() -> Iterator[str]:
    words = (
        (SINK, "sinks, always seen"),
        (RECENT, "window, seen"),
        (STALE, "evicted, not yet overwritten"),
        (EMPTY, "spare, for padding"),
    )
    x = LEFT
    for colour, text in words:
        yield _box(x, HEIGHT - 30, 14, colour)
        yield _label(x + 20, HEIGHT - 18, text)
        x += 48 + 7 * len(text)


def _seen(position: int) -> str:
    return SINK if position < WINDOW.sinks else RECENT


def _cell(column: int, top: int, colour: str, text: str, *, gone: bool) -> Iterator[str]:
    x = LEFT + column * CELL
    yield _box(x, top, CELL, colour)
    if text:
        yield _label(x + CELL / 2, top + CELL / 2 + 4, text, "number gone" if gone else "number")


def _box(x: float, y: float, size: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{colour}" stroke="#8b96a3"/>'


def _span(first: int, count: int, top: int, text: str) -> str:
    x, y, width = LEFT + first * CELL + 2, top + CELL + 6, count * CELL - 4
    bracket = f'<path d="M{x} {y} v5 h{width} v-5" fill="none" stroke="#8b96a3"/>'
    return bracket + "\n" + _label(x, y + 20, text)


def _label(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{attribute}>{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
