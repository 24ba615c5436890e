"""Where the slots of a cache lie in its memory, and with how many rows: integers alone.

Every slot has memory for all rows. Young sessions need few of them, and a step should read no more. So the slots of a
step lie one behind another with as many rows each as the oldest of them needs, from the beginning of the first slot's
memory on: a *group*, which ends before the memory of the slot behind it begins. A group is moved as a whole. Slots with
all their rows are where their memory is, so any of them lie one behind another.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.window import Geometry

LEAST_ROWS = 128
"""Of a slot, a power of two. More are 192, 256, 384 and so on, then all: few shapes are bound, slots are moved seldom,
and sums have the same order in each."""
SHRINKS_FOR = 16
"""Tokens of a step that are worth moving a slot to where fewer rows are read."""


@dataclass(frozen=True)
class Place:
    """Where a slot lies: how many rows of slots are before it, and how many it has."""

    start: int
    rows: int

    def behind(self, slots: int) -> Place:
        """The place so many slots behind this one, where all have as many rows."""
        return Place(self.start + slots * self.rows, self.rows)


class SlotLayout:
    """Places of all slots. A slot holds rows before its end, which is where its session has written.

    The sinks' rows are always read, since the graph has as many; with `varies` False, so are all.
    """

    def __init__(self, geometry: Geometry, *, varies: bool) -> None:
        slots, rows = geometry.slots, geometry.rows
        self._rows, self._least = rows, geometry.sinks if varies else rows
        self._places = [self._own(slot) for slot in range(slots)]
        self._groups = [range(slot, slot + 1) for slot in range(slots)]
        self._ends = [0] * slots

    def place(self, slot: int) -> Place:
        """Where `slot` lies."""
        return self._places[slot]

    def end(self, slot: int) -> int:
        """One past the last row that `slot` holds."""
        return self._ends[slot]

    def clear(self, slot: int) -> None:
        """`slot` holds nothing any more."""
        self._ends[slot] = 0

    def lay_out(self, first: int, ends: tuple[int, ...], step: int) -> dict[int, tuple[Place, Place]]:
        """Make room for a step of `step` tokens over slots from `first` on, which writes rows before `ends`.

        Returns the slots that have to be moved, with the old place and the new one.
        """
        slots = range(first, first + len(ends))
        before = [(slot, self._places[slot]) for slot in self._joined(slots)]
        shrinks = step >= SHRINKS_FOR or not any(self._ends[slot] for slot in slots)
        for slot, end in zip(slots, ends, strict=True):
            self._ends[slot] = max(self._ends[slot], end)
        if not self._stays(slots, shrinks=shrinks):
            self._gather(self._joined(slots))
        return {slot: (old, self._places[slot]) for slot, old in before if old != self._places[slot]}

    def _stays(self, slots: range, *, shrinks: bool) -> bool:
        """Whether the slots lie as a step wants them; `shrinks`: not with twice the rows that it needs."""
        held = self._places[slots.start]
        needed = max(self._ends[slot] for slot in slots)
        in_line = all(self._places[slot] == held.behind(index) for index, slot in enumerate(slots))
        alone = len(slots) == len(self._groups[slots.start]) == 1
        return in_line and needed <= held.rows and not (alone and shrinks and 2 * self._fitting(needed) <= held.rows)

    def _gather(self, slots: range) -> None:
        """Lay `slots` out one behind another with as many rows as the one that needs most of them."""
        rows = self._fitting(max(self._ends[slot] for slot in slots))
        for index, slot in enumerate(slots):
            self._places[slot] = Place(slots.start * self._rows, rows).behind(index)
            self._groups[slot] = slots if rows < self._rows else range(slot, slot + 1)

    def _joined(self, slots: range) -> range:
        """The slots, and those that are in a group with one of them."""
        return range(self._groups[slots.start].start, self._groups[slots[-1]].stop)

    def _fitting(self, needed: int) -> int:
        rows = LEAST_ROWS
        while rows < max(needed, self._least):
            rows += rows // (3 if rows & (rows - 1) else 2)  # 128, 192, 256, 384
        return min(rows, self._rows)

    def _own(self, slot: int) -> Place:
        return Place(slot * self._rows, self._rows)
