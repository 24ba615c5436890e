"""Who is fed what in a step, how much of it on trial, and how long a chunk may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_service.scheduling.step_plan import LEAST_CHUNK, Candidate, Pace, Step, most_drafted, plan

CANDIDATES = st.dictionaries(st.integers(0, 9), st.integers(1, 8)).map(
    lambda ready: [Candidate(slot, count) for slot, count in ready.items()]
)


@given(CANDIDATES, st.integers(1, 8))
def test_nobody_starves(candidates: list[Candidate], most: int) -> None:
    """Within two steps everybody with a single token is fed, and within one round everybody with more."""
    step, last, seen = Step({}), -1, []
    longs = sum(candidate.ready > 1 for candidate in candidates)
    for _ in range(2 * max(longs, 1)):
        step = plan(candidates, most=most, alone=20, before=step, last_chunk=last)
        last = last if step.chunk is None else step.chunk
        seen.append(step)
    for candidate in candidates:
        first = next(index for index, step in enumerate(seen) if candidate.slot in step.counts)
        assert candidate.ready > 1 or first <= 1
    alternating = longs and len(candidates) > longs
    assert not alternating or all(a.chunk is None or b.chunk is None for a, b in pairwise(seen))


def test_a_long_input_is_held_to_the_most_only_while_others_decode() -> None:
    single, long = Candidate(0, 1), Candidate(3, 20)
    nobody = Step({})
    assert plan([long], most=8, alone=64, before=nobody, last_chunk=-1) == Step({3: 20}, chunk=3)
    assert plan([long], most=8, alone=16, before=nobody, last_chunk=-1) == Step({3: 16}, chunk=3)
    assert plan([single, long], most=8, alone=64, before=nobody, last_chunk=-1) == Step({3: 8}, chunk=3)
    assert plan([single, long], most=8, alone=64, before=Step({3: 8}, chunk=3), last_chunk=3) == Step({0: 1})
    assert plan([], most=8, alone=64, before=nobody, last_chunk=-1) == nobody


def test_long_inputs_are_fed_by_slot_after_the_one_that_was_fed_last() -> None:
    longs = [Candidate(slot, 5) for slot in (4, 1, 2)]
    for last, following in ((-1, 1), (1, 2), (2, 4), (4, 1), (3, 4)):
        assert plan(longs, most=8, alone=8, before=Step({}), last_chunk=last).chunk == following


@pytest.mark.parametrize(
    ("step", "most"),
    [
        (Step({0: 1}), 15),
        (Step({3: 1}), 15),
        (Step({0: 1, 1: 1}), 7),
        (Step({0: 1, 2: 1}), 4),
        (Step({0: 1, 7: 1}), 1),
        (Step({0: 1, 8: 1}), 0),
        (Step({0: 1, 40: 1}), 0),
        (Step({0: 4}, chunk=0), 0),
        (Step({}), 0),
    ],
)
def test_how_much_a_step_has_room_for(step: Step, most: int) -> None:
    assert most_drafted(step, rows=16) == most


def test_slots_before_the_first_that_a_batch_begins_at_count_too() -> None:
    assert most_drafted(Step({3: 1}), rows=16, multiple=4) == 3


def test_slow_chunks_get_shorter_while_others_decode() -> None:
    pace = Pace(stall_s=0.05, chunk=64)
    assert pace.tokens == 64
    for _ in range(50):
        pace.note(64, 0.64)
    assert pace.tokens == 8
    for _ in range(50):
        pace.note(8, 0.008)
    assert pace.tokens > 40


def test_a_step_alone_takes_some_stalls_at_most_and_never_less_than_a_chunk() -> None:
    pace = Pace(stall_s=0.1, chunk=64)
    assert pace.alone == 64
    for seconds, most in ((0.064, 400), (0.64, 64)):
        for _ in range(50):
            pace.note(64, seconds)
        assert abs(pace.alone - most) <= 1


def test_chunks_are_never_shorter_than_the_least_and_short_steps_teach_nothing() -> None:
    pace = Pace(stall_s=0.001, chunk=64)
    pace.note(LEAST_CHUNK - 1, 9.0)
    assert pace.tokens == 64
    pace.note(LEAST_CHUNK, 9.0)
    assert pace.tokens == LEAST_CHUNK
    assert Pace(stall_s=0.001, chunk=4).tokens == 4
