"""The geometry by its definition: every token is seen exactly as DESIGN's words say, never by accident of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.window import (
    Geometry,
    SessionWindow,
    chunks,
    earliest,
    held_positions,
    held_rows,
    linear_run,
    row,
    visible_rows,
)
from tests.samples.geometries import geometries, windows


def seen(window: SessionWindow, position: int) -> set[int]:
    """The definition: the first n' tokens, and those of the last w' that are not among them."""
    return {j for j in range(position + 1) if j < window.sinks or j > position - window.window}


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_a_query_sees_the_rows_of_exactly_the_tokens_that_the_definition_names(
    data: st.DataObject, geometry: Geometry, position: int
) -> None:
    window = data.draw(windows(geometry))
    rows = [r for part in visible_rows(geometry, window, position) for r in part]
    assert len(rows) == len(set(rows))
    assert set(rows) == {row(geometry, window.sinks, j) for j in seen(window, position)}
    assert len(rows) == len(seen(window, position))  # no two of them share a row


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_a_query_sees_its_own_row(data: st.DataObject, geometry: Geometry, position: int) -> None:
    window = data.draw(windows(geometry))
    rows = [r for part in visible_rows(geometry, window, position) for r in part]
    assert row(geometry, window.sinks, position) in rows


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_what_is_held_is_what_the_next_query_sees_besides_itself(
    data: st.DataObject, geometry: Geometry, position: int
) -> None:
    window = data.draw(windows(geometry))
    sinks, recent = held_positions(window, position)
    assert {*sinks, *recent} == seen(window, position) - {position}
    assert not set(sinks) & set(recent)
    parts = held_rows(geometry, window, position)
    assert [r for part in parts for r in part] == [row(geometry, window.sinks, j) for j in (*sinks, *recent)]
    assert len(parts) <= 3
    assert all(parts)


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_a_run_follows_linearly_and_never_crosses_the_end_of_the_ring(
    data: st.DataObject, geometry: Geometry, position: int
) -> None:
    window, longest = data.draw(windows(geometry)), data.draw(st.integers(0, 30))
    run = linear_run(geometry, window.sinks, position, longest)
    first = row(geometry, window.sinks, position)
    assert 1 <= run <= max(geometry.chunk, longest)
    assert run <= geometry.chunk or position + run <= window.sinks + geometry.ring  # nothing is overwritten
    assert [row(geometry, window.sinks, position + k) for k in range(run)] == list(range(first, first + run))


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_a_run_is_as_long_as_it_may_be(data: st.DataObject, geometry: Geometry, position: int) -> None:
    window, longest = data.draw(windows(geometry)), data.draw(st.integers(0, 30))
    run = linear_run(geometry, window.sinks, position, longest)
    after = position + run
    crosses = row(geometry, window.sinks, after) != row(geometry, window.sinks, after - 1) + 1
    most = max(geometry.chunk, longest if position < window.sinks + geometry.ring else 0)
    assert run == most or crosses


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200), step=st.integers(1, 8))
def test_padding_of_any_step_stays_inside_the_slot(
    data: st.DataObject, geometry: Geometry, position: int, step: int
) -> None:
    window = data.draw(windows(geometry))
    assert row(geometry, window.sinks, position) + min(step, geometry.chunk) <= geometry.rows


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 100), count=st.integers(0, 60))
def test_chunks_are_runs_that_add_up(data: st.DataObject, geometry: Geometry, position: int, count: int) -> None:
    window = data.draw(windows(geometry))
    sizes = chunks(geometry, window.sinks, position, count)
    assert sum(sizes) == count
    for size in sizes:
        assert 1 <= size <= linear_run(geometry, window.sinks, position)
        position += size


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_a_whole_step_can_always_be_taken_back(data: st.DataObject, geometry: Geometry, position: int) -> None:
    window = data.draw(windows(geometry))
    assert earliest(geometry, window, position + geometry.chunk) <= position


@given(data=st.data(), geometry=geometries(), written=st.integers(0, 200))
def test_the_earliest_position_is_where_the_oldest_token_seen_is_still_there_and_one_less_is_not(
    data: st.DataObject, geometry: Geometry, written: int
) -> None:
    window = data.draw(windows(geometry))

    def intact(position: int) -> bool:
        """Nobody between the tokens seen before `position` and `written` has taken one of their rows."""
        taken = {row(geometry, window.sinks, j): j for j in range(written)}
        return all(taken[row(geometry, window.sinks, j)] == j for j in seen(window, position) - {position})

    bound = earliest(geometry, window, written)
    assert all(intact(position) for position in range(bound, written + 1))
    if window.window > 1 and bound > window.sinks + window.window:  # else nothing but sinks and itself is seen
        assert not intact(bound - 1)


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_evicted_tokens_are_those_that_the_newest_token_does_not_see(
    data: st.DataObject, geometry: Geometry, position: int
) -> None:
    window = data.draw(windows(geometry))
    visible = len(seen(window, position - 1)) if position else 0
    assert window.evicted(position) == position - visible


@given(data=st.data(), geometry=geometries(), position=st.integers(0, 200))
def test_the_cache_index_is_the_number_of_tokens_before_the_newest(
    data: st.DataObject, geometry: Geometry, position: int
) -> None:
    window = data.draw(windows(geometry))
    assert window.cache_index(position) == len(seen(window, position)) - 1


@pytest.mark.parametrize("bad", [(-1, 4, 1, 1), (0, 0, 1, 1), (0, 4, 0, 1), (0, 4, 1, 0)])
def test_an_empty_geometry_is_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(AssertionError):
        Geometry(*bad)


def test_the_row_layout_is_the_one_in_the_drawing() -> None:
    geometry = Geometry(sinks=4, window=7, chunk=5, slots=1)
    assert geometry.ring == 11
    assert geometry.rows == 4 + 11 + 4
    assert [row(geometry, 4, p) for p in range(4, 17)] == [*range(4, 15), 4, 5]
    assert [row(geometry, 1, p) for p in (0, 1, 2, 11, 12)] == [0, 4, 5, 14, 4]
