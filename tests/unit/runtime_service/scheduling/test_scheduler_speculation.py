"""Turns with drafts: as without, in fewer steps. The property of `test_scheduler` has drafts as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from common.engine.engine import Feed
from common.errors import Reason
from common.window import Geometry
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.running_turn import Outcome
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import make_manifest
from tests.unit.runtime_service.scheduling.driver import GREEDY, Driver, Talker

GEOMETRY = Geometry(sinks=2, window=40, chunk=12, slots=3)
LONG = replace(GREEDY, max_new_tokens=60, speculated_tokens=15)
PROMPT = (9, 8, 7)
VOCABULARY = 450


def driver(before_step: Callable[[tuple[Feed, ...]], None] | None = None) -> Driver:
    """Over an engine that repeats itself, with text."""
    made = Driver(GEOMETRY, simple=True, vocabulary=VOCABULARY, before_step=before_step)
    made.text = Text(byte_level(), make_manifest(GEOMETRY))
    return made


def run(
    options: GenerationOptions, *, evicts: bool = True, ends: frozenset[int] = frozenset()
) -> tuple[Driver, Talker]:
    """One turn, and one more after it."""
    made = driver()
    talker = made.talker()
    made.submit(talker, PROMPT, options=options, evicts=evicts, ends=ends, closing=(3, 4))
    made.finish()
    made.submit(talker, PROMPT, options=replace(options, max_new_tokens=5), evicts=evicts)
    made.finish()
    return made, talker


def told(talker: Talker) -> list[object]:
    """Everything that was said, and how the turns ended, but times and drafts."""

    def plain(outcome: Outcome) -> Outcome:
        usage = replace(outcome.usage, drafted_tokens=0, accepted_tokens=0)
        return replace(outcome, usage=usage, timing=GREEDY_TIMING)

    return [*(event for event in talker.events if isinstance(event, Delta)), *map(plain, talker.outcomes)]


GREEDY_TIMING = run(GREEDY)[1].outcomes[0].timing


def same(options: GenerationOptions, *, evicts: bool = True, ends: frozenset[int] = frozenset()) -> Outcome:
    """Check that drafts change nothing; returns how the first turn ended."""
    with_drafts = run(options, evicts=evicts, ends=ends)[1]
    without = run(replace(options, speculated_tokens=0), evicts=evicts, ends=ends)[1]
    assert told(with_drafts) == told(without)
    assert without.outcomes[0].usage.drafted_tokens == 0
    return with_drafts.outcomes[0]


def test_text_that_repeats_takes_fewer_steps() -> None:
    made = driver()
    talker = made.talker()
    made.submit(talker, PROMPT, options=LONG)
    made.finish()
    usage = talker.outcomes[0].usage
    assert usage.drafted_tokens >= usage.accepted_tokens > 30
    assert len(made.engine.steps) == 60 - usage.accepted_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.3, "seed": 3},
        {"temperature": 0.01, "top_k": 3, "frequency_penalty": 0.001},
        {"repetition_penalty": 1.05},
        {"presence_penalty": 0.5, "frequency_penalty": 0.2},
        {"logprobs": 2},
    ],
)
def test_nothing_else_changes(changes: dict[str, float]) -> None:
    assert same(replace(LONG, **changes)).reason is FinishReason.LENGTH  # type: ignore[arg-type]


def test_penalties_see_what_they_would_see_one_token_at_a_time() -> None:
    usage = same(replace(LONG, frequency_penalty=0.001)).usage
    assert 0 < usage.accepted_tokens < usage.drafted_tokens


@pytest.mark.parametrize("most", range(1, 50))
def test_a_reply_is_as_long_as_it_may_be(most: int) -> None:
    outcome = same(replace(LONG, max_new_tokens=most))
    assert (outcome.reason, outcome.usage.generated_tokens) == (FinishReason.LENGTH, most)


def test_a_text_stops_wherever_in_a_draft_it_is_to() -> None:
    text = same(LONG).text
    stops = {text[start : start + size] for start in range(len(text) - 9) for size in (1, 5, 9)}
    assert len(stops) > 10
    for stop in sorted(stops):
        assert same(replace(LONG, stop=(stop,))).stop_sequence == stop


def test_a_token_ends_a_reply_wherever_in_a_draft_it_is() -> None:
    tokens = same(LONG).tokens[len(PROMPT) : len(PROMPT) + 60]
    for end in set(tokens):
        outcome = same(LONG, ends=frozenset({end}))
        assert (outcome.reason, outcome.usage.generated_tokens) == (FinishReason.STOP, tokens.index(end) + 1)


def test_what_is_drawn_at_random_is_the_same_with_drafts_that_are_right_in_part() -> None:
    outcomes = [same(replace(LONG, temperature=0.004, seed=seed)) for seed in range(12)]
    assert any(0 < outcome.usage.accepted_tokens < outcome.usage.drafted_tokens for outcome in outcomes)


def test_a_context_that_is_full_ends_the_turn() -> None:
    outcome = same(LONG, evicts=False)
    assert outcome.reason is FinishReason.CONTEXT_FULL
    assert outcome.usage.accepted_tokens > 0


def test_a_cancelled_turn_keeps_what_was_accepted() -> None:
    for steps in range(3, 15):
        made = driver()
        talker = made.talker()
        turn_id = made.submit(talker, PROMPT, options=LONG)
        for _ in range(steps):
            made.scheduler.step()
        made.scheduler.cancel_turn(talker.tenant, turn_id, discard=bool(steps % 2))
        assert talker.tenant.history.unfed == (0 if steps % 2 else 1)
        made.submit(talker, PROMPT, options=LONG)
        made.finish()  # the driver checks what is said
        assert talker.outcomes[-1].usage.accepted_tokens > 0


@pytest.mark.parametrize("steps", range(3, 10))
def test_a_discarded_turn_leaves_nothing_of_its_drafts(steps: int) -> None:
    """With three tokens there is always something to draft, and it is mostly wrong."""
    made = Driver(Geometry(sinks=1, window=9, chunk=8, slots=1), vocabulary=3)
    talker = made.talker()
    made.submit(talker, (0, 1, 2, 0) * 6, options=LONG)
    made.finish()
    for number in range(40):
        turn_id = made.submit(talker, (number % 3,), options=LONG)
        for _ in range(steps):
            made.scheduler.step()
        made.scheduler.cancel_turn(talker.tenant, turn_id, discard=True)
        made.submit(talker, (1,), options=replace(LONG, max_new_tokens=1))
        made.finish()  # the driver checks what is said
    assert talker.outcomes[0].usage.drafted_tokens > talker.outcomes[0].usage.accepted_tokens


def test_drafts_of_many_sessions_take_no_more_rows_than_the_engine_checks() -> None:
    rows: list[int] = []

    def note(feeds: tuple[Feed, ...]) -> None:
        busy = [feed for feed in feeds if feed.tokens]
        if any(feed.wanted > 1 for feed in busy):
            slots = max(feed.slot for feed in busy) - min(feed.slot for feed in busy) + 1
            rows.append(slots * max(len(feed.tokens) for feed in busy))

    made = driver(note)
    talkers = [made.talker() for _ in range(3)]
    for talker in talkers:
        made.submit(talker, PROMPT, options=LONG)
        made.scheduler.step()
    made.finish()
    assert max(rows) <= made.engine.draft_rows
    assert {talker.outcomes[0].usage.accepted_tokens > 0 for talker in talkers} == {True}


def test_one_who_drafts_not_decodes_beside_one_who_does() -> None:
    made = driver()
    fast, slow = made.talker(), made.talker()
    made.submit(fast, PROMPT, options=LONG)
    made.submit(slow, PROMPT, options=replace(LONG, speculated_tokens=0))
    made.finish()
    assert fast.history == slow.history
    assert slow.outcomes[0].usage.drafted_tokens == 0 < fast.outcomes[0].usage.accepted_tokens


def test_a_session_that_is_poisoned_fails_alone() -> None:
    made = Driver(GEOMETRY, simple=True, poison=frozenset({63}))
    talkers = [made.talker() for _ in range(2)]
    repeated = (1, 2, 3, 1, 2, 3, 1, 2)
    for talker, token in zip(talkers, (63, 5), strict=True):
        made.submit(talker, (token, *repeated), options=LONG)
    made.finish()
    assert talkers[0].outcomes[0].error is not None
    assert talkers[0].outcomes[0].error.reason is Reason.NON_FINITE_LOGITS
    assert talkers[1].outcomes[0].usage.accepted_tokens > 0


def test_an_engine_that_checks_no_drafts_gets_none() -> None:
    made = Driver(GEOMETRY, simple=True, draft_rows=0)
    talker = made.talker()
    made.submit(talker, PROMPT, options=LONG)
    made.finish()
    assert talker.outcomes[0].usage.drafted_tokens == 0
    assert {feed.wanted for feeds in made.engine.steps for feed in feeds} == {1}
