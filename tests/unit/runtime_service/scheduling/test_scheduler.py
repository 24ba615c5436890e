"""Turns of many sessions over one engine: what each says does not depend on the others, on chunks or on cancels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FailedPrecondition
from common.window import Geometry, SessionWindow
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.scheduler_events import NeedsHistory, TurnAdmitted
from runtime_service.scheduling.slots import Residence
from tests.nightly import examples
from tests.unit.runtime_service.scheduling.driver import GREEDY, Driver, Talker

SMALL = Geometry(sinks=2, window=6, chunk=4, slots=2)
OPTIONS = st.builds(
    GenerationOptions,
    max_new_tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.2, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9),
    speculated_tokens=st.sampled_from([0, 1, 4, 15]),
)
GEOMETRIES = st.builds(Geometry, st.integers(0, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))


def fed(driver: Driver) -> list[dict[int, int]]:
    """Tokens by slot of each step."""
    return [{feed.slot: len(feed.tokens) for feed in step if feed.tokens} for step in driver.engine.steps]


# Properties


class Play:
    """Lets hypothesis choose what happens between steps."""

    def __init__(self, data: st.DataObject, geometry: Geometry) -> None:
        self.data = data
        budget = data.draw(st.sampled_from([0, 60, 1 << 20]), label="parked bytes")
        multiple = data.draw(st.integers(1, 2), label="slot multiple")
        self.simple = data.draw(st.booleans(), label="simple")
        self.vocabulary = data.draw(st.sampled_from([5, 64]), label="vocabulary")
        rows = data.draw(st.sampled_from([0, 3, 16]), label="draft rows")
        longest = data.draw(st.sampled_from([0, 9]), label="longest")
        self.driver = Driver(
            geometry,
            parked_bytes=budget,
            slot_multiple=multiple,
            draft_rows=rows,
            longest=longest,
            simple=self.simple,
            vocabulary=self.vocabulary,
        )
        self.talkers = [self.driver.talker(self._window(geometry), (3,) * size) for size in (0, 1, 12)]

    def _window(self, geometry: Geometry) -> SessionWindow:
        sinks = self.data.draw(st.integers(0, geometry.sinks))
        return SessionWindow(sinks, self.data.draw(st.integers(1, geometry.window)))

    def act(self) -> None:
        talker = self.data.draw(st.sampled_from(self.talkers))
        if talker.hungry and self.data.draw(st.booleans()):
            self.driver.feed_hungry(talker)
        elif talker.tenant.run is None:
            self._submit(talker)
        else:
            self._disturb(talker, talker.tenant.run.work.turn_id)

    def _submit(self, talker: Talker) -> None:
        prompt = tuple(self.data.draw(st.lists(st.integers(0, self.vocabulary - 1), min_size=1, max_size=14)))
        options = self.data.draw(OPTIONS)
        closing = self.data.draw(st.sampled_from([(), (3,), (3, 4)]))
        reply = self.data.draw(st.booleans()) or self.data.draw(st.booleans())
        self.driver.submit(talker, prompt, options=options, closing=closing, reply=reply)

    def _disturb(self, talker: Talker, turn_id: str) -> None:
        act = self.data.draw(st.sampled_from(["cancel", "discard", "pause", "resume", "stale"]))
        if act in ("pause", "resume"):
            self.driver.scheduler.pause(talker.tenant, paused=act == "pause")
        else:
            self.driver.scheduler.cancel_turn(
                talker.tenant, "x" if act == "stale" else turn_id, discard=act == "discard"
            )


@settings(max_examples=examples(40), deadline=None)
@given(st.data(), GEOMETRIES)
def test_every_session_says_what_it_would_say_alone(data: st.DataObject, geometry: Geometry) -> None:
    play = Play(data, geometry)
    for _ in range(data.draw(st.integers(1, 12))):
        play.act()
        for _ in range(data.draw(st.integers(0, 5))):
            play.driver.scheduler.step()
    for talker in play.talkers:
        play.driver.scheduler.pause(talker.tenant, paused=False)
    play.driver.finish()
    assert all(talker.tenant.run is None for talker in play.talkers)
    for talker in play.talkers:  # and so does everything that is still in a cache
        play.driver.submit(talker, (1, 2), options=replace(GREEDY, max_new_tokens=3))
    play.driver.finish()
    assert not [outcome for talker in play.talkers for outcome in talker.outcomes if outcome.error]


@given(st.data(), GEOMETRIES, st.integers(0, 30))
@settings(deadline=None, max_examples=examples(20))
def test_a_discarded_turn_has_never_been(data: st.DataObject, geometry: Geometry, steps: int) -> None:
    driver = Driver(geometry)
    talker, twin = driver.talker(), driver.talker()
    for each in (talker, twin):
        driver.submit(each, (9, 8, 7))
        driver.finish()
    prompt = tuple(data.draw(st.lists(st.integers(0, 63), min_size=1, max_size=20)))
    turn_id = driver.submit(talker, prompt, options=replace(GREEDY, max_new_tokens=50))
    for _ in range(steps):
        driver.scheduler.step()
    driver.scheduler.cancel_turn(talker.tenant, turn_id, discard=True)
    assert talker.tenant.history.counts == twin.tenant.history.counts
    assert talker.outcomes[-1].tokens == ()
    for each in (talker, twin):
        driver.submit(each, (5,))
        driver.finish()
    assert talker.history == twin.history


# One at a time


def test_sessions_that_decode_share_their_steps() -> None:
    driver = Driver(SMALL)
    talkers = [driver.talker(), driver.talker()]
    for talker in talkers:
        driver.submit(talker, (1,))
    driver.finish()
    assert fed(driver) == [{0: 1, 1: 1}] * GREEDY.max_new_tokens


def test_a_long_input_alternates_with_those_who_decode() -> None:
    driver = Driver(SMALL)
    decoder, reader = driver.talker(), driver.talker()
    driver.submit(decoder, (1,))
    driver.scheduler.step()
    driver.submit(reader, tuple(range(12)), reply=False)
    for _ in range(7):
        driver.scheduler.step()
    kinds = [next(iter(step)) for step in fed(driver)]
    assert kinds[:7] == [0, 1, 0, 1, 0, 1, 0]


def test_long_inputs_take_turns() -> None:
    driver = Driver(SMALL)
    for _ in range(2):
        driver.submit(driver.talker(), tuple(range(6)), reply=False)
    driver.finish()
    assert [next(iter(step)) for step in fed(driver)][:4] == [0, 1, 0, 1]


def test_a_turn_waits_while_every_slot_is_busy_and_then_runs() -> None:
    driver = Driver(SMALL)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, (1, 2))
    driver.scheduler.step()
    assert [TurnAdmitted() in talker.events for talker in talkers] == [True, True, False]
    driver.finish()
    assert [talker.outcomes[0].reason for talker in talkers] == [FinishReason.LENGTH] * 3
    assert talkers[0].history == talkers[2].history


def test_the_longest_resting_session_is_parked_first() -> None:
    driver = Driver(SMALL)
    talkers = [driver.talker() for _ in range(3)]
    for talker in (*talkers[:2], talkers[0], talkers[2]):
        driver.submit(talker, (1, 2))
        driver.finish()
    residences = [talker.tenant.residence for talker in talkers]
    assert residences == [Residence.RESIDENT, Residence.PARKED, Residence.RESIDENT]


def test_what_does_not_fit_the_parking_budget_comes_back_from_its_tokens() -> None:
    driver = Driver(SMALL, parked_bytes=0)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, tuple(range(20)))
        driver.finish()
    assert talkers[0].tenant.residence is Residence.STORED
    driver.submit(talkers[0], (1,))
    driver.finish()
    assert NeedsHistory(10) in talkers[0].events
    assert talkers[0].outcomes[-1].reason is FinishReason.LENGTH


def test_a_replay_beyond_the_bound_is_refused_with_both_numbers() -> None:
    driver = Driver(SMALL, parked_bytes=0, max_replay_tokens=11)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, tuple(range(20)))
        driver.finish()
    driver.submit(talkers[0], (1,))
    driver.finish()
    error = talkers[0].outcomes[-1].error
    assert isinstance(error, FailedPrecondition)
    assert error.metadata == {"tokens": "12", "max_replay_tokens": "11"}


def test_a_long_input_is_fed_in_long_steps_while_it_is_alone_and_its_ring_has_not_come_round() -> None:
    driver = Driver(Geometry(sinks=2, window=40, chunk=4, slots=2), longest=16)
    driver.submit(driver.talker(), (1,) * 70, reply=False)
    driver.finish()
    counts = [tokens for step in fed(driver) for tokens in step.values()]
    assert counts == [4, 16, 16, 9, *[4] * 6, 1]  # one to see how long it takes, then up to the ring's end
    driver.submit(driver.talker(), (2,))
    driver.scheduler.step()
    driver.submit(driver.talker(), (1,) * 30)
    driver.finish()
    assert max(tokens for step in fed(driver)[len(counts) :] for tokens in step.values()) == 4


@pytest.mark.parametrize(("multiple", "slot", "neighbours"), [(1, 1, (0, 2)), (2, 0, (1,))])
def test_padding_of_neighbours_counts_against_what_can_be_taken_back(
    multiple: int, slot: int, neighbours: tuple[int, ...]
) -> None:
    """A slot is padded between busy ones, and below one where batches start at even slots."""
    geometry = Geometry(sinks=0, window=6, chunk=4, slots=3)
    driver = Driver(geometry, slot_multiple=multiple)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, tuple(range(18)), reply=False)  # two rings: a chunk follows linearly
        driver.finish()
    turn_id = driver.submit(talkers[slot], (40, 41, 42, 43), options=replace(GREEDY, max_new_tokens=9))
    driver.scheduler.step()
    driver.scheduler.pause(talkers[slot].tenant, paused=True)
    for neighbour in neighbours:
        driver.submit(talkers[neighbour], (1,))
    driver.finish()
    driver.scheduler.cancel_turn(talkers[slot].tenant, turn_id, discard=True)
    driver.scheduler.pause(talkers[slot].tenant, paused=False)
    driver.submit(talkers[slot], (50,))
    driver.finish()  # the driver checks what is said
    assert talkers[slot].outcomes[-1].reason is FinishReason.LENGTH


def test_a_slot_is_cleared_before_another_session_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(SMALL, parked_bytes=0)
    cleared: list[int] = []
    monkeypatch.setattr(driver.engine, "clear", cleared.append)
    for _ in range(3):
        driver.submit(driver.talker(), (1, 2, 3))
        driver.finish()
    assert cleared == [0, 1, 0]
