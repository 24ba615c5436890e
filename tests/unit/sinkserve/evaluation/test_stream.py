"""What the ways through a stream compute, against the definition of sink + window and against the runtime itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Internal
from common.window import Geometry, SessionWindow
from sinkserve.evaluation.modes import Kind, all_modes, common_geometry, holds
from sinkserve.evaluation.stream import Lane, forced, recomputed
from tests.fakes.engine import FakeEngine, expected_logits, hashed_logits
from tests.samples.geometries import geometries, windows
from tests.samples.streams import random_tokens
from tests.unit.runtime_service.scheduling.driver import Driver


@given(st.data())
def test_every_lane_is_a_session_of_its_own_window(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    lanes = [Lane(random_tokens(20, 64, seed), data.draw(windows(geometry))) for seed in range(3)]
    engine = FakeEngine(geometry, draft_rows=data.draw(st.integers(0, 16)))
    seen = 0
    for position, logits in forced(engine, lanes):
        assert position == seen
        for rows, lane in zip(logits, lanes, strict=True):
            for offset, row in enumerate(rows):
                assert np.array_equal(row, expected_logits(lane.tokens[: position + offset + 1], lane.window))
        seen += logits.shape[1]
    assert seen == 20


@given(st.data())
def test_what_is_read_anew_is_the_kept_tokens_and_nothing_else(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    capacity = geometry.sinks + geometry.window
    sinks = data.draw(st.integers(0, capacity - 1))
    kept = SessionWindow(sinks, data.draw(st.integers(1, capacity - sinks)))
    tokens = random_tokens(30, 64)
    positions = data.draw(st.lists(st.integers(0, 29), min_size=1, max_size=8))
    found = list(recomputed(FakeEngine(geometry), tokens, kept, positions))
    assert [position for position, _ in found] == positions
    for position, logits in found:
        first = max(sinks, position + 1 - kept.window)
        text = [*tokens[: min(sinks, position + 1)], *tokens[first : position + 1]]
        assert np.array_equal(logits, hashed_logits([token + 1 for token in text], 64))


@given(st.data())
def test_with_sinks_the_stream_expects_what_the_runtime_says(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    window = data.draw(windows(geometry))
    tokens = random_tokens(data.draw(st.integers(1, 40)), 64)
    *_, (_, last) = forced(FakeEngine(geometry), [Lane(tokens, window)])
    driver = Driver(geometry)
    talker = driver.talker(window)
    driver.submit(talker, tuple(tokens))
    driver.finish()
    assert talker.said[0] == last[0, -1].argmax()


def test_logits_that_are_not_finite_end_the_measurement() -> None:
    engine = FakeEngine(Geometry(1, 4, 2, 1), poison=frozenset({7}))
    with pytest.raises(Internal, match="not finite"):
        list(forced(engine, [Lane([1, 7], SessionWindow(1, 4))]))
    with pytest.raises(Internal, match="not finite"):
        list(recomputed(engine, [1, 7], SessionWindow(0, 4), [1]))


def test_every_mode_keeps_as_many_tokens_but_dense_which_keeps_all() -> None:
    modes = all_modes(6, 50)
    assert [mode.name for mode in modes] == [
        "dense",
        "window 0+6",
        "recomputation 0+6",
        "recomputation 4+2",
        "sinks 1+5",
        "sinks 2+4",
        "sinks 4+2",
    ]
    assert {mode.window.capacity for mode in modes if mode.kind is not Kind.DENSE} == {6}
    assert modes[0].window == SessionWindow(0, 50)


@given(st.lists(st.builds(SessionWindow, st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=4))
def test_one_cache_holds_sessions_of_many_windows(sessions: list[SessionWindow]) -> None:
    geometry = common_geometry(sessions, 3)
    assert all(holds(geometry, window) for window in sessions)
    assert geometry.slots == min(3, len(sessions))
    assert not holds(geometry, SessionWindow(geometry.sinks + 1, 1))
    assert not holds(geometry, SessionWindow(0, geometry.window + 1))
