"""StreamEval: which of the earlier lines a session still knows, by their distance.

A question counts as answered if every token of the reply, up to and with the value, is the likeliest one where it
stands: so a greedy reply reads word for word like the right one. How often the value alone is right, behind the right
words, is reported too. The right reply follows in the stream, whatever was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.window import SessionWindow
from sinkserve.evaluation.forms import Form
from sinkserve.evaluation.progress import Track
from sinkserve.evaluation.questions import Question, Script, tokens_a_line, write_script
from sinkserve.evaluation.stream import Lane, forced
from sinkserve.evaluation.workbench import Workbench

SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0, 4.0)
"""Distances to ask at, in windows."""
SETTLED = 2
"""Questions count from so many windows on, when the cache has overflowed."""


@dataclass(frozen=True)
class Accuracy:
    """Right replies, replies whose value alone is right, and questions."""

    right: int
    value_right: int
    asked: int

    @property
    def share(self) -> float | None:
        """Right replies of all, from 0 to 1; None where nothing was asked."""
        return self.right / self.asked if self.asked else None


@dataclass(frozen=True)
class Column:
    """One cache: accuracy by distance, and by whether the fact was still in view when it was asked for."""

    sinks: int
    window: int
    by_distance: tuple[Accuracy, ...]
    inside: Accuracy
    at_the_edge: Accuracy
    beyond: Accuracy

    @property
    def name(self) -> str:
        """As tables and plots call it."""
        return f"{self.sinks}+{self.window}"


@dataclass(frozen=True)
class StreamEval:
    """The measurement; `distances` are in lines, `distance_tokens` their medians in tokens."""

    engine: str
    form: str
    streams: int
    tokens: int
    distances: tuple[int, ...]
    distance_tokens: tuple[int, ...]
    columns: tuple[Column, ...]


def measure_streameval(
    bench: Workbench, form: Form, name: str, *, streams: int, tokens: int, track: Track
) -> StreamEval:
    """Ask at many distances in `streams` streams of `tokens` tokens, with caches of several sizes.

    Raises InvalidArgument (TEXT_UNSUPPORTED) for an engine that takes token ids only.
    """
    distances = distances_of(bench, form)
    scripts = [write_script(bench.text, form, distances, tokens, seed) for seed in range(streams)]
    columns = tuple(_column(bench, scripts, distances, window, track) for window in windows_of(bench))
    asked = [question for script in scripts for question in script.questions]
    return StreamEval(
        engine=bench.manifest.reference,
        form=name,
        streams=streams,
        tokens=tokens,
        distances=distances,
        distance_tokens=tuple(_median_distance(asked, back) for back in distances),
        columns=columns,
    )


def windows_of(bench: Workbench) -> tuple[SessionWindow, ...]:
    """Caches to compare, all the engine's own: a quarter, half and all of its tokens, and its window without sinks."""
    geometry = bench.manifest.geometry
    sizes = (bench.capacity // 4, bench.capacity // 2, bench.capacity)
    kept = [SessionWindow(geometry.sinks, size - geometry.sinks) for size in sizes if size > geometry.sinks]
    return (*kept, SessionWindow(0, geometry.window)) if geometry.sinks else tuple(kept)


def distances_of(bench: Workbench, form: Form) -> tuple[int, ...]:
    """Lines back to ask for: from next to nothing to several windows, as far as line numbers are not used again."""
    lines = bench.capacity / tokens_a_line(bench.text, form)
    return tuple(sorted({back for share in SHARES if 1 <= (back := round(share * lines)) < form.lines}))


def _column(
    bench: Workbench, scripts: Sequence[Script], distances: Sequence[int], window: SessionWindow, track: Track
) -> Column:
    start = SETTLED * bench.capacity
    answers = [
        (question, hit)
        for script, right in zip(scripts, _expected(bench, scripts, window, track), strict=True)
        for question in script.questions
        if question.fact[0] >= start
        for hit in [(bool(right[question.reply : question.value[1]].all()), bool(right[slice(*question.value)].all()))]
    ]
    views = {view: _accuracy([hit for item, hit in answers if item.sees(window.sinks, window.window) is view])
             for view in (True, None, False)}  # fmt: skip
    by_distance = tuple(_accuracy([hit for item, hit in answers if item.back == back]) for back in distances)
    return Column(window.sinks, window.window, by_distance, views[True], views[None], views[False])


def _expected(
    bench: Workbench, scripts: Sequence[Script], window: SessionWindow, track: Track
) -> list[npt.NDArray[np.bool_]]:
    """For every script, [tokens] whether each token was the likeliest one; as many streams at once as slots."""
    slots = bench.engine.geometry.slots
    found: list[npt.NDArray[np.bool_]] = []
    groups = [scripts[start : start + slots] for start in range(0, len(scripts), slots)]
    with track(f"{window.sinks}+{window.window}", sum(len(group[0].tokens) for group in groups)) as advance:
        for group in groups:
            tokens = np.array([script.tokens for script in group])
            right = np.zeros(tokens.shape, bool)
            for position, logits in forced(bench.engine, [Lane(row.tokens, window) for row in group]):
                following = tokens[:, position + 1 : position + 1 + logits.shape[1]]
                best = logits.argmax(axis=-1)[:, : following.shape[1]]
                right[:, position + 1 : position + 1 + following.shape[1]] = best == following
                advance(logits.shape[1])
            found += list(right)
    return found


def _accuracy(hits: Sequence[tuple[bool, bool]]) -> Accuracy:
    return Accuracy(sum(whole for whole, _ in hits), sum(value for _, value in hits), len(hits))


def _median_distance(questions: Sequence[Question], back: int) -> int:
    distances = [question.distance for question in questions if question.back == back]
    return int(np.median(distances)) if distances else 0
