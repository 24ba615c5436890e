"""Places of slots: what every step needs of them, and when they are moved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.engine.slot_layout import LEAST_ROWS, SHRINKS_FOR, Place, SlotLayout
from common.window import Geometry

GEOMETRY = Geometry(sinks=4, window=984, chunk=7, slots=5)
SLOTS, ROWS = 5, 1000
ENDS = st.lists(st.integers(1, ROWS), min_size=1, max_size=SLOTS)
STEPS = st.lists(st.tuples(st.integers(0, SLOTS - 1), ENDS, st.integers(1, 64)), max_size=12)
Steps = list[tuple[int, list[int], int]]


@given(STEPS)
def test_slots_of_a_step_lie_one_behind_another_with_room_and_on_nobody_else(steps: Steps) -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    for first, ends, step in steps:
        layout.lay_out(first, tuple(ends[: SLOTS - first]), step)
        held, slots = layout.place(first), range(first, min(SLOTS, first + len(ends)))
        assert held.rows >= max(layout.end(slot) for slot in slots)
        assert [layout.place(slot) for slot in slots] == [held.behind(slot - first) for slot in slots]
        places = sorted((layout.place(slot) for slot in range(SLOTS)), key=lambda place: place.start)
        for one, next_one in zip(places, [*places[1:], Place(SLOTS * ROWS, 0)], strict=True):
            assert one.start + one.rows <= next_one.start


@given(STEPS)
def test_who_is_moved_is_told_with_both_places(steps: Steps) -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    places = {slot: layout.place(slot) for slot in range(SLOTS)}
    for first, ends, step in steps:
        moves = layout.lay_out(first, tuple(ends[: SLOTS - first]), step)
        assert all(places[slot] == old != new for slot, (old, new) in moves.items())
        places |= {slot: new for slot, (_, new) in moves.items()}
        assert places == {slot: layout.place(slot) for slot in range(SLOTS)}


def rows_of(layout: SlotLayout, first: int, *ends: int, step: int = 1) -> int:
    layout.lay_out(first, ends, step)
    return layout.place(first).rows


def test_a_slot_that_grows_gets_half_or_a_third_more_rows_until_it_has_all() -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    found = [rows_of(layout, 2, end) for end in (1, 128, 129, 192, 193, 257, 400, 513, 769, 1000)]
    assert found == [128, 128, 192, 192, 256, 384, 512, 768, 1000, 1000]


def test_young_slots_step_together_with_the_rows_of_the_oldest() -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    assert [rows_of(layout, slot, 100) for slot in range(3)] == [LEAST_ROWS] * 3
    assert rows_of(layout, 0, 101, 200, 101) == 256
    assert layout.place(2) == Place(512, 256)
    assert not layout.lay_out(1, (201, 102), 1)  # some of them, and one alone, as they lie
    assert not layout.lay_out(2, (166,), 64)
    assert rows_of(layout, 0, 101, 200, 260) == 384  # one outgrows the others


def test_beside_an_old_slot_all_have_all_rows_until_one_reads_much_alone() -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    rows_of(layout, 0, 100)
    assert rows_of(layout, 0, 101, 900) == ROWS
    assert rows_of(layout, 0, 102, step=SHRINKS_FOR - 1) == ROWS
    assert rows_of(layout, 0, 102, step=SHRINKS_FOR) == LEAST_ROWS
    assert rows_of(layout, 1, 900, step=SHRINKS_FOR) == ROWS


def test_a_slot_that_was_cleared_begins_with_few_rows() -> None:
    layout = SlotLayout(GEOMETRY, varies=True)
    rows_of(layout, 1, 900)
    layout.clear(1)
    assert (layout.end(1), rows_of(layout, 1, 4)) == (0, LEAST_ROWS)


def test_where_rows_do_not_vary_nothing_is_moved() -> None:
    layout = SlotLayout(GEOMETRY, varies=False)
    assert not layout.lay_out(1, (10, 10), 10)
    assert layout.place(1) == Place(ROWS, ROWS)


def test_the_sinks_rows_are_always_read() -> None:
    layout = SlotLayout(Geometry(sinks=200, window=785, chunk=8, slots=5), varies=True)
    assert rows_of(layout, 1, 1) == 256
