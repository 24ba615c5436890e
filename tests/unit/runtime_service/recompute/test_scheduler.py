"""Turns over an engine that keeps no cache: what each session says follows from its tokens, window and stride alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Internal, Reason
from common.window import Geometry, SessionWindow
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.scheduler_events import NeedsHistory
from runtime_service.scheduling.slots import Residence
from tests.fakes.engine import expected_greedy
from tests.nightly import examples
from tests.unit.runtime_service.recompute.recomputing import Recomputing
from tests.unit.runtime_service.scheduling.driver import GREEDY, Talker

SMALL = Geometry(sinks=2, window=6, chunk=1, slots=2)
LONG = replace(GREEDY, max_new_tokens=30)
WINDOWS = st.builds(SessionWindow, st.integers(0, 3), st.integers(1, 9))


class Play:
    """Lets hypothesis choose what happens between steps."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        geometry = Geometry(sinks=3, window=9, chunk=1, slots=data.draw(st.integers(1, 3)))
        self.stage = Recomputing(geometry, stride=data.draw(st.integers(0, 10)))
        self.talkers = [self.stage.talker(data.draw(WINDOWS), (7,) * size) for size in (0, 1, 12)]
        self.talkers.append(self.stage.stored(list(range(20)), data.draw(WINDOWS)))

    def act(self) -> None:
        talker = self.data.draw(st.sampled_from(self.talkers))
        if talker.hungry and self.data.draw(st.booleans()):
            self.stage.feed_hungry(talker)
        elif talker.tenant.run is None:
            self._submit(talker)
        else:
            self._disturb(talker, talker.tenant.run.work.turn_id)

    def _submit(self, talker: Talker) -> None:
        prompt = tuple(self.data.draw(st.lists(st.integers(0, 63), min_size=1, max_size=14)))
        options = replace(GREEDY, max_new_tokens=self.data.draw(st.integers(1, 20)))
        closing = self.data.draw(st.sampled_from([(), (3,), (3, 4)]))
        reply = self.data.draw(st.booleans()) or self.data.draw(st.booleans())
        self.stage.submit(talker, prompt, options=options, closing=closing, reply=reply)

    def _disturb(self, talker: Talker, turn_id: str) -> None:
        act = self.data.draw(st.sampled_from(["cancel", "discard", "pause", "resume", "stale", "fail"]))
        if act in ("pause", "resume"):
            self.stage.scheduler.pause(talker.tenant, paused=act == "pause")
        elif act == "fail":
            self.stage.scheduler.fail_turn(talker.tenant, Internal(Reason.INTERNAL, "bad luck"))
        else:
            self.stage.scheduler.cancel_turn(
                talker.tenant, "x" if act == "stale" else turn_id, discard=act == "discard"
            )


@settings(max_examples=examples(40), deadline=None)
@given(st.data())
def test_every_session_says_what_its_tokens_window_and_stride_give(data: st.DataObject) -> None:
    play = Play(data)
    stage = play.stage
    for _ in range(data.draw(st.integers(1, 12))):
        play.act()
        for _ in range(data.draw(st.integers(0, 8))):
            stage.step()
            assert stage.scheduler.residents <= stage.geometry.slots
    for talker in play.talkers:
        stage.scheduler.pause(talker.tenant, paused=False)
    stage.finish()
    assert all(talker.tenant.run is None for talker in play.talkers)
    for talker in play.talkers:  # and what is kept is right after all that
        stage.submit(talker, (1, 2), options=replace(GREEDY, max_new_tokens=3))
    stage.finish()
    assert not stage.generator.running
    assert stage.scheduler.residents == 0


@settings(deadline=None)
@given(WINDOWS, st.integers(0, 10), st.lists(st.integers(0, 63), min_size=1, max_size=30))
def test_prompt_and_reply_never_exceed_sinks_and_window(window: SessionWindow, stride: int, prompt: list[int]) -> None:
    stage = Recomputing(stride=stride)
    stage.submit(stage.talker(window), tuple(prompt), options=LONG)
    stage.finish()
    bound = window.capacity if window.window > 1 else window.capacity + 1
    assert all(len(each.tokens) + each.most <= bound for each in stage.generator.started)
    assert sum(len(each.told) for each in stage.generator.started) == LONG.max_new_tokens


@settings(deadline=None)
@given(WINDOWS, st.integers(0, 10), st.integers(1, 30), st.integers(1, 30))
def test_the_view_begins_where_the_last_of_what_was_sent_does(
    window: SessionWindow, stride: int, prompt: int, most: int
) -> None:
    """Tokens are told apart by their positions here: the input, then what the generator said."""
    stage = Recomputing(stride=stride)
    talker = stage.talker(window)
    stage.submit(talker, tuple(range(prompt)), options=replace(GREEDY, max_new_tokens=most))
    stage.finish()
    sent = stage.generator.started[-1]
    recent = len(sent.tokens) - min(window.sinks, len(talker.history) - len(sent.told))
    start = len(talker.history) - len(sent.told) - recent
    assert talker.outcomes[0].usage.window_start_position == max(
        start, window.sinks, len(talker.history) - window.window
    )


@settings(deadline=None)
@given(st.data(), st.integers(2, 9), st.integers(0, 3))
def test_with_a_stride_of_one_every_token_sees_the_window_but_one(data: st.DataObject, w: int, n: int) -> None:
    stage = Recomputing(stride=1)
    talker = stage.talker(SessionWindow(n, w))
    prompt = data.draw(st.lists(st.integers(0, 63), min_size=1, max_size=20))
    stage.submit(talker, tuple(prompt), options=LONG)
    stage.finish()
    assert talker.said == expected_greedy(prompt, SessionWindow(n, w - 1), LONG.max_new_tokens)


@settings(deadline=None)
@given(st.data(), st.integers(0, 12))
def test_a_discarded_turn_has_never_been(data: st.DataObject, steps: int) -> None:
    stage = Recomputing(Geometry(sinks=2, window=6, chunk=1, slots=3))
    talker, twin = stage.talker(), stage.talker()
    for each in (talker, twin):
        stage.submit(each, (9, 8, 7))
        stage.finish()
    prompt = tuple(data.draw(st.lists(st.integers(0, 63), min_size=1, max_size=20)))
    turn_id = stage.submit(talker, prompt, options=replace(GREEDY, max_new_tokens=50))
    for _ in range(steps):
        stage.step()
    stage.scheduler.cancel_turn(talker.tenant, turn_id, discard=True)
    assert talker.outcomes[-1].tokens == ()
    for each in (talker, twin):
        stage.submit(each, (5,))
        stage.finish()
    assert talker.history == twin.history


# What is sent


def test_a_short_session_is_sent_whole_and_once() -> None:
    stage = Recomputing()
    stage.submit(stage.talker(opening=(9,)), (1, 2), options=replace(GREEDY, max_new_tokens=5))
    stage.finish()
    assert [(each.tokens, each.most) for each in stage.generator.started] == [((9, 1, 2), 5)]


def test_a_reply_that_fills_the_window_goes_on_from_the_sinks_and_all_but_a_stride() -> None:
    stage = Recomputing(stride=2)
    talker = stage.talker()
    stage.submit(talker, tuple(range(20)), options=replace(GREEDY, max_new_tokens=5))
    stage.finish()
    history = talker.history
    assert [(each.tokens, each.most) for each in stage.generator.started] == [
        ((0, 1, *history[16:20]), 2),
        ((0, 1, *history[18:22]), 2),
        ((0, 1, *history[19:24]), 1),  # one token left: no more room is needed
    ]


def test_the_default_stride_is_a_quarter_of_the_sessions_window() -> None:
    stage = Recomputing(Geometry(sinks=0, window=40, chunk=1, slots=1))
    for window, kept in ((40, 30), (8, 6), (3, 2)):
        stage.submit(stage.talker(SessionWindow(0, window)), tuple(range(50)), options=LONG)
        stage.finish()
        assert len(stage.generator.started[0].tokens) == kept
        stage.generator.started.clear()


def test_each_prompt_of_a_turn_draws_other_numbers_and_the_same_again() -> None:
    stage = Recomputing()
    options = replace(LONG, temperature=1.0, seed=7)
    for talker in (stage.talker(), stage.talker()):
        stage.submit(talker, tuple(range(20)), options=options)
    stage.finish()
    by_prompt = {each.tokens: each.options.seed for each in stage.generator.started}
    assert len(by_prompt) * 2 == len(stage.generator.started)
    assert len(set(by_prompt.values())) == len(by_prompt)
    assert all(by_prompt[each.tokens] == each.options.seed for each in stage.generator.started)


def test_input_without_a_reply_is_taken_without_a_slot_and_without_the_engine() -> None:
    stage = Recomputing()
    for talker in (stage.talker(), stage.talker()):
        stage.submit(talker, (1,))
    stage.step()
    reader = stage.talker()
    stage.submit(reader, tuple(range(9)), reply=False, closing=(3,))
    stage.step()
    assert reader.outcomes[0].reason is FinishReason.INPUT_ONLY
    assert reader.history == list(range(9))
    assert len(stage.generator.started) == 2


def test_a_session_from_the_database_asks_for_its_window_alone() -> None:
    stage = Recomputing()
    talker = stage.stored(list(range(50)))
    stage.submit(talker, (1,))
    stage.finish()
    assert talker.events[0] == NeedsHistory(6)
    stage.submit(talker, (2,))
    stage.finish()
    assert [event for event in talker.events if isinstance(event, NeedsHistory)] == [NeedsHistory(6)]


def test_a_long_conversation_keeps_no_more_than_its_window() -> None:
    stage = Recomputing()
    talker = stage.talker()
    for _ in range(5):
        stage.submit(talker, tuple(range(20)))
        stage.finish()
    stage.submit(talker, tuple(range(30)), reply=False)
    stage.finish()
    assert talker.tenant.history.kept(talker.tenant.history.length) == 6
    assert talker.tenant.residence is Residence.STORED
