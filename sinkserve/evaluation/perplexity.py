"""Perplexity of a text under an engine by position, for every way of going past the end of the cache.

What a mode is scored on are the same tokens in every mode: the log-probability of the next token, in natural units.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.engine.engine import Engine, FloatArray
from common.errors import FailedPrecondition, Reason, SinkServeError
from common.window import Geometry, SessionWindow
from sinkserve.evaluation.modes import STEP, Kind, Mode, all_modes, common_geometry, holds
from sinkserve.evaluation.progress import Track
from sinkserve.evaluation.stream import Lane, forced, recomputed
from sinkserve.evaluation.workbench import Workbench

Scores = npt.NDArray[np.float64]
CURVE_POINTS = 64
GROWTHS = 8
FEWEST = 30
"""Fewer tokens of a range than this say nothing of it, unless they are all that it has."""


@dataclass(frozen=True)
class Row:
    """One mode: perplexity within each range, of everything, and past the cache on the tokens that were recomputed.

    A range is NaN where only a few of its tokens were recomputed.
    `to_recomputation` is the ratio of that to the better recomputation's.
    """

    mode: str
    kind: Kind
    by_range: tuple[float, ...]
    overall: float
    past_cache: float
    to_recomputation: float | None
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Perplexity:
    """The measurement: `ranges` are [first, last) positions of predicted tokens; `skipped` says why, by mode.

    `compared` tokens past the cache are those that were recomputed, which `past_cache` is of in every row; None where
    nothing was recomputed.
    """

    engine: str
    tokens: int
    cache_tokens: int
    trained_context: int
    stride: int
    compared: int | None
    ranges: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]
    skipped: dict[str, str]


def measure_perplexity(
    bench: Workbench,
    tokens: Sequence[int],
    *,
    capacity: int,
    stride: int,
    track: Track,
    kinds: Collection[Kind] = tuple(Kind),
) -> Perplexity:
    """Go through `tokens` in every mode of `kinds`; recomputation predicts only every `stride`-th token.

    A mode that this engine cannot go is skipped with the reason.
    """
    assert len(tokens) > capacity, "the stream outgrows the cache"
    scores: dict[Mode, Scores] = {}
    skipped: dict[str, str] = {}
    modes = [mode for mode in all_modes(capacity, len(tokens)) if mode.kind in kinds]
    for group in _groups(bench, modes):
        try:
            _check(bench, group)
            scores |= _go(bench, group, tokens, stride, track)
        except SinkServeError as error:
            skipped |= {mode.name: error.message for mode in group}
    return _summary(bench, scores, skipped, len(tokens), capacity, stride)


def _groups(bench: Workbench, modes: Sequence[Mode]) -> list[list[Mode]]:
    """Modes that go together as the slots of one engine: dense, recomputation, what the engine holds, and the rest."""
    served, others, alone = list[Mode](), list[Mode](), list[list[Mode]]()
    for mode in modes:
        if mode.kind in (Kind.DENSE, Kind.RECOMPUTE):
            alone.append([mode])
        else:
            (served if holds(bench.engine.geometry, mode.window) else others).append(mode)
    slots = bench.engine.geometry.slots
    return [*alone, *(group[i : i + slots] for group in (served, others) for i in range(0, len(group), slots))]


def _check(bench: Workbench, group: Sequence[Mode]) -> None:
    """Raise FailedPrecondition for a dense cache that would not be what the model's own layers do."""
    sliding = bench.manifest.architecture.sliding_window
    if group[0].kind is Kind.DENSE and sliding is not None and sliding < group[0].window.window:
        message = f"the model's own layers see {sliding} tokens, and engines do not do that for them"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message)


def _go(
    bench: Workbench, group: Sequence[Mode], tokens: Sequence[int], stride: int, track: Track
) -> dict[Mode, Scores]:
    if group[0].kind is Kind.RECOMPUTE:
        return {group[0]: _recompute(bench, group[0], tokens, stride, track)}
    if group[0].kind is Kind.DENSE:
        return {group[0]: _dense(bench, group[0], tokens, track)}
    if all(holds(bench.engine.geometry, mode.window) for mode in group):
        return _stream(bench.engine, group, tokens, track)
    with bench.resized(common_geometry([mode.window for mode in group], len(group))) as engine:
        return _stream(engine, group, tokens, track)


def _stream(engine: Engine, group: Sequence[Mode], tokens: Sequence[int], track: Track) -> dict[Mode, Scores]:
    """Every mode in a slot of its own: [len(tokens)] log-probabilities, of which the first is of nothing."""
    found = np.full((len(group), len(tokens)), np.nan)
    with track(", ".join(mode.name for mode in group), len(tokens) - 1) as advance:
        lanes = [Lane(tokens[:-1], mode.window) for mode in group]
        for position, logits in forced(engine, lanes):
            following = np.arange(position + 1, position + 1 + logits.shape[1])
            found[:, following] = log_probability(logits, np.array(tokens)[following])
            advance(len(following))
    return dict(zip(group, found, strict=True))


def _dense(bench: Workbench, mode: Mode, tokens: Sequence[int], track: Track) -> Scores:
    """The cache grows with the stream, since a step costs what its cache has room for."""
    found = np.full(len(tokens), np.nan)
    length, state = len(tokens) - 1, None
    with track(mode.name, length) as advance:
        for start, end in pairwise([*range(0, length, max(STEP, math.ceil(length / GROWTHS))), length]):
            window = SessionWindow(0, end + 1)  # so that at the end of the stage nothing has left
            with bench.resized(Geometry(0, end + 1, STEP, 1)) as engine:
                if state is not None:
                    engine.import_slot(0, replace(state, geometry=engine.geometry, window=window))
                for position, logits in forced(engine, [Lane(tokens[:end], window)], start):
                    following = np.arange(position + 1, position + 1 + logits.shape[1])
                    found[following] = log_probability(logits[0], np.array(tokens)[following])
                    advance(len(following))
                state = engine.export_slot(0, end, window)
    return found


def _recompute(bench: Workbench, mode: Mode, tokens: Sequence[int], stride: int, track: Track) -> Scores:
    found = np.full(len(tokens), np.nan)
    wanted = [p for p in range(len(tokens) - 1) if p % stride == 0]
    with _reader(bench, mode.window.capacity) as engine, track(mode.name, len(wanted)) as advance:
        for position, logits in recomputed(engine, tokens, mode.window, wanted):
            found[position + 1] = log_probability(logits, tokens[position + 1])
            advance(1)
    return found


@contextmanager
def _reader(bench: Workbench, capacity: int) -> Iterator[Engine]:
    """An engine whose cache holds `capacity` tokens: the bench's own where it does."""
    if capacity <= bench.capacity:
        yield bench.engine
        return
    own = bench.engine.geometry
    with bench.resized(Geometry(0, capacity, own.chunk, own.slots)) as engine:
        yield engine


def log_probability(logits: FloatArray, tokens: npt.ArrayLike) -> Scores:
    """Log-probability [..., token] of each of `tokens` [token], or of one, by `logits` [..., token, vocabulary]."""
    wide = logits.astype(np.float64)
    most = wide.max(axis=-1)
    total = np.log(np.exp(wide - most[..., None]).sum(axis=-1))
    given = np.take_along_axis(wide, np.broadcast_to(tokens, most.shape)[..., None], axis=-1)[..., 0]
    found: Scores = given - most - total
    return found


def perplexity(scores: Scores) -> float:
    """Of log-probabilities, those that are missing left out; NaN of none."""
    known = scores[~np.isnan(scores)]
    return math.exp(-known.mean()) if known.size else math.nan


def ranges_of(capacity: int, length: int) -> tuple[tuple[int, int], ...]:
    """Predicted positions in ranges that double: within the cache, up to twice as far, and so on to the end."""
    edges = [1, capacity]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    return tuple(pairwise(edges))


def _summary(  # noqa: PLR0917 - all that was measured
    bench: Workbench, scores: dict[Mode, Scores], skipped: dict[str, str], length: int, capacity: int, stride: int
) -> Perplexity:
    ranges = ranges_of(capacity, length)
    judge = _better([found for mode, found in scores.items() if mode.kind is Kind.RECOMPUTE], capacity)
    ordered = sorted(scores, key=lambda mode: (list(Kind).index(mode.kind), mode.window.sinks))
    return Perplexity(
        engine=bench.manifest.reference,
        tokens=length,
        cache_tokens=capacity,
        trained_context=bench.manifest.architecture.trained_context,
        stride=stride,
        compared=None if judge is None else int(np.count_nonzero(~np.isnan(judge[capacity:]))),
        ranges=ranges,
        rows=tuple(_row(mode, scores[mode], judge, ranges, capacity) for mode in ordered),
        skipped=skipped,
    )


def _better(recomputations: Sequence[Scores], capacity: int) -> Scores | None:
    """The recomputation to be held against: whichever predicts better past the cache."""
    return min(recomputations, key=lambda found: perplexity(found[capacity:]), default=None)


def _row(mode: Mode, found: Scores, judge: Scores | None, ranges: tuple[tuple[int, int], ...], capacity: int) -> Row:
    """Past the cache a mode is held against recomputation on the tokens that were recomputed, and no others."""
    past = found[capacity:]
    if judge is not None:
        past = np.where(np.isnan(judge[capacity:]), np.nan, past)
    return Row(
        mode=mode.name,
        kind=mode.kind,
        by_range=tuple(_within(found[start:end]) for start, end in ranges),
        overall=perplexity(found),
        past_cache=perplexity(past),
        to_recomputation=None if judge is None else perplexity(past) / perplexity(judge[capacity:]),
        curve=_curve(found),
    )


def _within(found: Scores) -> float:
    return perplexity(found) if np.count_nonzero(~np.isnan(found)) >= min(FEWEST, len(found)) else math.nan


def _curve(found: Scores) -> tuple[tuple[int, float], ...]:
    """Last position and perplexity of pieces of equal length, for a plot."""
    edges = np.linspace(1, len(found), min(CURVE_POINTS, len(found) - 1) + 1).astype(int)
    pieces = ((int(end), perplexity(found[start:end])) for start, end in pairwise(edges))
    return tuple((end, value) for end, value in pieces if not math.isnan(value))
