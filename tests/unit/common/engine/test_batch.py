"""Steps over slots, simulated row by row: whatever neighbours do, nobody sees a row that is not its token's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.batch import Batch, plan_batch
from common.engine.engine import Feed
from common.window import Geometry, SessionWindow, earliest, linear_run, visible_rows
from tests.samples.geometries import geometries, windows

GARBAGE = -1


class Simulation:
    """Slots whose rows hold the position of the token written there."""

    def __init__(self, geometry: Geometry, frozen: list[SessionWindow]) -> None:
        self.geometry = geometry
        self.windows = frozen
        self.positions = [0] * geometry.slots
        self.written = [0] * geometry.slots
        self.rows = [[GARBAGE] * geometry.rows for _ in range(geometry.slots)]

    def feed(self, slot: int, count: int, longest: int) -> Feed:
        window, position = self.windows[slot], self.positions[slot]
        most = linear_run(self.geometry, window.sinks, position, longest)
        return Feed(slot, position, window, (7,) * min(count, most))

    def run(self, batch: Batch) -> None:
        for feed, first in zip(batch.feeds, batch.rows, strict=True):
            own = [feed.position + k for k in range(len(feed.tokens))]
            self.rows[feed.slot][first : first + batch.step] = own + [GARBAGE] * (batch.step - len(own))
            self.written[feed.slot] = max(self.written[feed.slot], feed.position + batch.step)
        for feed in batch.feeds:
            for position in range(feed.position, feed.position + len(feed.tokens)):
                self.check(feed, position)

    def check(self, feed: Feed, position: int) -> None:
        window, rows = feed.window, self.rows[feed.slot]
        found = sorted(rows[r] for part in visible_rows(self.geometry, window, position) for r in part)
        assert found == [j for j in range(position + 1) if j < window.sinks or j > position - window.window]


@given(data=st.data(), geometry=geometries())
def test_every_query_sees_its_tokens_under_any_chunking_taking_back_and_neighbours(
    data: st.DataObject, geometry: Geometry
) -> None:
    simulation = Simulation(geometry, [data.draw(windows(geometry)) for _ in range(geometry.slots)])
    for _ in range(data.draw(st.integers(1, 30))):
        counts = data.draw(
            st.lists(st.integers(0, geometry.chunk), min_size=geometry.slots, max_size=geometry.slots).filter(any)
        )
        alone = sum(map(bool, counts)) == 1
        longest = data.draw(st.sampled_from([0, 20])) if alone else 0
        counts = [count and max(count, longest) for count in counts]
        feeds = tuple(simulation.feed(slot, count, longest) for slot, count in enumerate(counts))
        multiple = 1 if longest else data.draw(st.integers(1, 3))
        batch = plan_batch(geometry, feeds, multiple=multiple, longest=lambda _: 20)
        assert batch.first % multiple == 0
        assert min(feed.slot for feed in feeds if feed.tokens) - batch.first in range(multiple)
        simulation.run(batch)
        for feed in feeds:  # keep all, some or none of what was fed
            simulation.positions[feed.slot] += data.draw(st.integers(0, len(feed.tokens)))
        slot = data.draw(st.integers(0, geometry.slots - 1))
        lowest = earliest(geometry, simulation.windows[slot], simulation.written[slot])
        if data.draw(st.booleans()) and lowest < simulation.positions[slot]:  # go further back than one step
            simulation.positions[slot] = data.draw(st.integers(lowest, simulation.positions[slot]))


@given(data=st.data(), geometry=geometries(slots=5))
def test_a_batch_spans_the_busy_slots_and_is_padded_to_the_longest(data: st.DataObject, geometry: Geometry) -> None:
    busy = data.draw(st.sets(st.integers(0, 4), min_size=1))
    window = SessionWindow(geometry.sinks, geometry.window)
    feeds = tuple(
        Feed(slot, 0, window, (1,) * data.draw(st.integers(1, linear_run(geometry, window.sinks, 0))))
        for slot in sorted(busy, reverse=True)
    )
    batch = plan_batch(geometry, feeds)
    assert [feed.slot for feed in batch.feeds] == list(range(min(busy), max(busy) + 1))
    assert batch.first == min(busy)
    assert batch.step == max(len(feed.tokens) for feed in feeds)
    assert {feed.slot for feed in batch.feeds if feed.tokens} == busy


@given(data=st.data(), geometry=geometries(slots=4))
def test_every_wanted_token_is_answered_in_the_order_of_the_feeds(data: st.DataObject, geometry: Geometry) -> None:
    window = SessionWindow(geometry.sinks, geometry.window)
    most = linear_run(geometry, window.sinks, 0)
    counts = data.draw(st.lists(st.integers(0, most), min_size=4, max_size=4).filter(any))
    feeds = tuple(
        Feed(slot, 0, window, (1,) * counts[slot], data.draw(st.integers(1, max(1, counts[slot]))))
        for slot in data.draw(st.permutations(range(4)))
    )
    batch = plan_batch(geometry, feeds, draft_rows=4 * geometry.chunk)
    answered = [batch.outputs[place] for place in batch.answers(feeds)]
    assert answered == [
        (feed.slot - batch.first) * batch.step + len(feed.tokens) - feed.wanted + index
        for feed in feeds
        if feed.tokens
        for index in range(feed.wanted)
    ]
    for index, place in batch.idle():
        assert not batch.feeds[index].tokens
        assert batch.outputs[place] // batch.step == index
    drafts = any(feed.wanted > 1 for feed in feeds)
    assert len(batch.outputs) == (batch.size * batch.step if drafts else batch.size)


def test_an_idle_slot_writes_at_the_row_of_its_next_token() -> None:
    geometry = Geometry(sinks=2, window=4, chunk=2, slots=3)
    window = SessionWindow(2, 4)
    feeds = (Feed(0, 0, window, (1,)), Feed(1, 9, window), Feed(2, 0, window, (1,)))
    assert plan_batch(geometry, feeds).rows == (0, 2 + (9 - 2) % 5, 0)


@pytest.mark.parametrize(
    "feeds",
    [
        (),
        (Feed(0, 0, SessionWindow(0, 1)),),
        (Feed(0, 0, SessionWindow(0, 1), (1,)), Feed(0, 0, SessionWindow(0, 1), (1,))),
        (Feed(3, 0, SessionWindow(0, 1), (1,)),),
        (Feed(-1, 0, SessionWindow(0, 1), (1,)),),
        (Feed(0, -1, SessionWindow(0, 1), (1,)),),
        (Feed(0, 0, SessionWindow(3, 1), (1,)),),
        (Feed(0, 0, SessionWindow(0, 5), (1,)),),
        (Feed(0, 0, SessionWindow(0, 0), (1,)),),
        (Feed(0, 0, SessionWindow(0, 4), (1, 1, 1)),),
        (Feed(0, 0, SessionWindow(1, 4), (1, 1)),),
        (Feed(0, 4, SessionWindow(0, 4), (1, 1)),),
    ],
)
def test_a_step_that_cannot_be_laid_out_is_refused(feeds: tuple[Feed, ...]) -> None:
    with pytest.raises(ValueError, match=r"step needs|does not|follow linearly"):
        plan_batch(Geometry(sinks=2, window=4, chunk=2, slots=3), feeds)
