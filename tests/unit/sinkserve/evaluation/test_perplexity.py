"""Perplexity over an engine that is not a model, whose every figure is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.window import Geometry, SessionWindow
from sinkserve.evaluation.perplexity import Perplexity, log_probability, measure_perplexity, perplexity, ranges_of
from tests.fakes.engine import expected_logits
from tests.samples.streams import random_tokens
from tests.unit.sinkserve.evaluation.bench import VOCABULARY, FakeBench, Tracked

GEOMETRY = Geometry(2, 10, 4, 2)


def test_a_log_probability_is_that_of_a_softmax() -> None:
    logits = np.array([[0.0, 1.0, 2.0], [500.0, -500.0, 0.0]], np.float32)
    expected = [2 - math.log(1 + math.e + math.e**2), -500.0]
    assert np.allclose(log_probability(logits, 2), expected)
    assert np.exp([log_probability(logits, token) for token in range(3)]).sum(axis=0) == pytest.approx(1.0)


def test_missing_scores_do_not_count() -> None:
    assert perplexity(np.log([0.5, np.nan, 0.125])) == pytest.approx(4.0)
    assert math.isnan(perplexity(np.array([np.nan])))


@given(st.integers(2, 300), st.integers(1, 5000))
def test_ranges_cover_every_predicted_token_once_and_double(capacity: int, more: int) -> None:
    ranges = ranges_of(capacity, capacity + more)
    assert [position for start, end in ranges for position in range(start, end)] == list(range(1, capacity + more))
    assert ranges[0] == (1, capacity)
    assert all(end <= 2 * start for start, end in ranges[1:])


@pytest.fixture(scope="module")
def measured() -> tuple[Perplexity, FakeBench, Tracked, list[int]]:
    bench, track, tokens = FakeBench(GEOMETRY), Tracked(), random_tokens(60, 64)
    return measure_perplexity(bench, tokens, capacity=12, stride=3, track=track), bench, track, tokens


def test_every_mode_is_scored_by_the_definition(measured: tuple[Perplexity, FakeBench, Tracked, list[int]]) -> None:
    found, bench, track, tokens = measured
    windows = {
        "dense": SessionWindow(0, 60),
        "window 0+12": SessionWindow(0, 12),
        **{f"sinks {sinks}+{12 - sinks}": SessionWindow(sinks, 12 - sinks) for sinks in (1, 2, 4, 8)},
    }
    rows = {row.mode: row for row in found.rows}
    assert rows.keys() == windows.keys() | {"recomputation 0+12", "recomputation 4+8"}
    for mode, window in windows.items():
        scores = [_score(tokens[: end + 1], window) for end in range(1, 60)]
        assert rows[mode].overall == pytest.approx(math.exp(-np.mean(scores)))
        for (start, end), value in zip(found.ranges, rows[mode].by_range, strict=True):
            assert value == pytest.approx(math.exp(-np.mean(scores[start - 1 : end - 1])))
    assert all(math.isnan(value) for value in rows["recomputation 0+12"].by_range), "a third of 48 tokens says nothing"
    assert not found.skipped
    assert track.is_complete
    grown = [geometry.window for geometry in bench.made if geometry.slots == 1]
    assert grown == [17, 33, 49, 60], "dense: the cache grows with the stream"


def _score(tokens: Sequence[int], window: SessionWindow) -> float:
    logits = expected_logits(tokens[:-1], window, VOCABULARY)
    return float(log_probability(logits[None], tokens[-1])[0])


def test_modes_are_held_against_the_better_recomputation_on_its_own_tokens(
    measured: tuple[Perplexity, FakeBench, Tracked, list[int]],
) -> None:
    found, _, _, tokens = measured
    rows = {row.mode: row for row in found.rows}
    asked = [position for position in range(59) if position % 3 == 0 and position + 1 >= 12]
    assert found.compared == len(asked)
    past = {}
    for sinks in (0, 4):
        kept = [[*tokens[:sinks], *tokens[max(sinks, end + 1 - (12 - sinks)) : end + 2]] for end in asked]
        scores = [_score(text, SessionWindow(0, len(text))) for text in kept]
        past[sinks] = math.exp(-np.mean(scores))
        assert rows[f"recomputation {sinks}+{12 - sinks}"].past_cache == pytest.approx(past[sinks])
    window = [_score(tokens[: end + 2], SessionWindow(2, 10)) for end in asked]
    assert rows["sinks 2+10"].to_recomputation == pytest.approx(math.exp(-np.mean(window)) / min(past.values()))


def test_an_engine_whose_cache_is_fixed_leaves_out_what_it_cannot_hold_and_says_why() -> None:
    found = measure_perplexity(
        FakeBench(GEOMETRY, fixed=True), random_tokens(30, 64), capacity=12, stride=1, track=Tracked()
    )
    assert [row.mode for row in found.rows] == ["recomputation 0+12", "recomputation 4+8", "sinks 2+10"]
    assert set(found.skipped) == {"dense", "window 0+12", "sinks 1+11", "sinks 4+8", "sinks 8+4"}
    assert set(found.skipped.values()) == {"its cache is compiled into it"}
