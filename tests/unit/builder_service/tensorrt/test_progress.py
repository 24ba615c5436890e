"""Progress of nested phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder_service.tensorrt.progress import CompileProgress, EstimatedProgress

NAMES = st.sampled_from("abcd")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), NAMES, st.none() | NAMES, st.integers(0, 5)),
        st.tuples(st.just("step"), NAMES, st.integers(0, 7)),
        st.tuples(st.just("finish"), NAMES),
    )
)


@given(EVENTS)
def test_it_never_falls_and_stays_between_nothing_and_all(events: list[tuple[str, ...]]) -> None:
    """Whatever a toolchain reports: unknown parents, steps beyond the last, phases that end twice."""
    phases, before = CompileProgress(), 0.0
    for act, *arguments in events:
        share = getattr(phases, act)(*arguments)
        assert before <= share <= 1
        before = share


def test_a_phase_inside_another_is_worth_a_step_of_it() -> None:
    phases = CompileProgress()
    assert phases.start("all", None, 4) == 0
    assert phases.step("all", 0) == 1 / 4
    assert phases.start("inner", "all", 2) == 1 / 4
    assert phases.step("inner", 0) == 3 / 8
    assert phases.finish("inner") == 1 / 2
    assert phases.step("all", 1) == 1 / 2
    assert phases.finish("all") == 1


def test_a_phase_ends_with_those_inside() -> None:
    phases = CompileProgress()
    phases.start("all", None, 1)
    phases.start("inner", "all", 1)
    phases.start("innermost", "inner", 1)
    phases.finish("inner")
    assert phases.step("innermost", 0) == phases.share
    phases.start("innermost", None, 2)  # the name is free again
    assert phases.step("innermost", 0) == 1


def test_while_a_compiler_is_silent_its_progress_goes_by_time_and_never_ends() -> None:
    estimate = EstimatedProgress(expected_s=10)
    estimate.told(0.83)
    estimate.told(0.5)  # what is said twice does not fall
    shares = [estimate.share(elapsed_s) for elapsed_s in (0, 5, 10, 20, 100)]
    assert shares == sorted(set(shares))
    assert shares[0] == pytest.approx(0.083)
    assert shares[2] == pytest.approx(0.083 + 0.9 * 0.8)
    assert shares[-1] < 1
