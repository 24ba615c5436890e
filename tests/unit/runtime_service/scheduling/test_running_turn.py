"""One turn without an engine: when it has room, what it tells, and what is left of it however it ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.engine.engine import FloatArray
from common.errors import Internal, Reason
from common.window import Geometry, SessionWindow
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.sampling import Sampled
from runtime_service.decoding.text import Text
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.running_turn import RunningTurn, Work
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import make_manifest

WINDOW = SessionWindow(sinks=2, window=6)
VOCABULARY = 450
OPTIONS = GenerationOptions(max_new_tokens=100, temperature=0.0)
TEXT = Text(byte_level(), make_manifest(Geometry(2, 6, 4, 1), vocabulary=VOCABULARY))
BYTES = {token: TEXT.token_bytes(token) for token in range(5, VOCABULARY)}
LETTERS = [token for token, name in BYTES.items() if len(name) == 1 and name.isalpha()]


def made(
    prompt: tuple[int, ...],
    *,
    reply: bool = True,
    evicts: bool = True,
    opening: tuple[int, ...] = (),
    closing: tuple[int, ...] = (),
    options: GenerationOptions = OPTIONS,
) -> RunningTurn:
    work = Work(
        turn_id="turn",
        prompt=prompt,
        options=options,
        accepted_at=1.0,
        reply=Reply(TEXT, options, ()) if reply else None,
        closing_after=lambda _last: closing,
        evicts=evicts,
    )
    return RunningTurn(work, TokenHistory(WINDOW, opening))


def begun(prompt: tuple[int, ...] = (5, 6, 7), **changes: object) -> RunningTurn:
    """Whose prompt is fed."""
    turn = made(prompt, **changes)  # type: ignore[arg-type]
    assert turn.begin(2.0)
    turn.history.settle()
    return turn


def logits(*tokens: int) -> FloatArray:
    rows = np.zeros((len(tokens), VOCABULARY), np.float32)
    rows[range(len(tokens)), tokens] = 1.0
    return rows


@pytest.mark.parametrize("reply", [True, False])
@pytest.mark.parametrize("before", [0, 3])
def test_a_prompt_leaves_room_for_a_token_only_where_a_reply_follows(reply: bool, before: int) -> None:
    opening = tuple(range(before))
    room = WINDOW.capacity - before
    full = made(tuple(range(room)), reply=reply, evicts=False, opening=opening)
    assert full.begin(2.0) is not reply
    assert full.history.length == (before if reply else WINDOW.capacity)
    assert made(tuple(range(room - 1)), reply=reply, evicts=False, opening=opening).begin(2.0)
    assert not made(tuple(range(room + 1)), reply=reply, evicts=False, opening=opening).begin(2.0)
    assert made(tuple(range(room + 1)), reply=reply, opening=opening).begin(2.0)


def test_a_reply_that_does_not_evict_ends_with_the_token_that_fills_the_window() -> None:
    turn = begun(tuple(range(6)), evicts=False)
    assert turn.accept_sampled(Sampled(LETTERS[0]), 3.0)[1] is None
    assert turn.accept_sampled(Sampled(LETTERS[1]), 4.0)[1] is FinishReason.CONTEXT_FULL
    assert turn.history.length == WINDOW.capacity


def test_a_closing_for_which_there_is_no_room_is_left_out_as_a_whole() -> None:
    for closing, added in (((8,), (8,)), ((8, 9), ())):
        turn = begun(tuple(range(6)), evicts=False, closing=closing)
        turn.accept_sampled(Sampled(LETTERS[0]), 3.0)
        outcome = turn.finish(FinishReason.LENGTH, 4.0)
        assert outcome.tokens == (*range(6), LETTERS[0], *added)


def test_a_step_accepts_its_draft_as_far_as_that_is_right_and_one_token_more() -> None:
    a, b, c, d = LETTERS[:4]
    turn = begun()
    told = list(turn.accept(logits(a, b, c, d), (a, b, d), 3.0))
    assert [delta.token_ids for delta, _ in told if delta] == [(a,), (b,), (c,)]
    assert [reason for _, reason in told] == [None] * 3
    assert turn.history.length - turn.history.fed == 1
    usage = turn.finish(FinishReason.CANCELLED, 4.0).usage
    assert (usage.generated_tokens, usage.drafted_tokens, usage.accepted_tokens) == (3, 3, 2)


def test_no_draft_goes_beyond_the_end_of_the_reply_or_of_a_window_that_does_not_evict() -> None:
    repeating = (5, 6, 5, 6, 5)
    speculated = replace(OPTIONS, speculated_tokens=4)
    for options, evicts, most in (
        (speculated, True, 4),
        (replace(speculated, max_new_tokens=3), True, 2),
        (speculated, False, 2),
    ):
        turn = begun(repeating, options=options, evicts=evicts)
        turn.history.take_back(4)
        assert len(turn.draft(15)) == most


def test_input_without_a_reply_ends_when_it_is_fed() -> None:
    turn = begun(reply=False)
    assert list(turn.accept(logits(1), (), 3.0)) == [(None, FinishReason.INPUT_ONLY)]
    assert turn.flush() is None
    outcome = turn.finish(FinishReason.INPUT_ONLY, 4.0)
    assert (outcome.tokens, outcome.usage.generated_tokens, outcome.text) == ((5, 6, 7), 0, "")


def test_a_turn_that_is_cancelled_keeps_its_tokens_and_the_text_that_was_held_back() -> None:
    a, b = LETTERS[:2]
    stop = BYTES[b].decode() + "?"
    turn = begun(closing=(9,), options=replace(OPTIONS, stop=(stop,)))
    said = [turn.accept_sampled(Sampled(token), 3.0)[0].text for token in (a, b)]
    held = turn.flush()
    assert held == Delta(stop[0])
    outcome = turn.cancel(4.0)
    assert outcome.text == "".join(said) + stop[0] == BYTES[a].decode() + stop[0]
    assert outcome.tokens == (5, 6, 7, a, b, 9)


def test_a_turn_that_is_cancelled_before_its_reply_keeps_what_was_fed() -> None:
    turn = made((5, 6, 7), closing=(9,))
    assert turn.begin(2.0)
    turn.history.advance(2)
    outcome = turn.cancel(3.0)
    assert (outcome.tokens, outcome.usage.prompt_tokens) == ((5, 6, 9), 2)


def test_a_turn_that_is_discarded_or_fails_has_not_been() -> None:
    turn = begun(opening=(1, 2))
    turn.accept_sampled(Sampled(LETTERS[0]), 3.0)
    failed = turn.fail(Internal(Reason.INTERNAL, "bad luck"), 4.0)
    assert (failed.reason, failed.tokens, failed.usage.position) == (FinishReason.ERROR, (), 2)
    assert failed.error is not None
    fed = turn.history.fed
    turn.history.take_back(2)
    discarded = turn.discard(4.0, fed)
    assert (discarded.reason, discarded.tokens, discarded.text) == (FinishReason.CANCELLED, (), "")
    assert (discarded.usage.prompt_tokens, discarded.usage.position) == (3, 2)
    assert turn.history.length == 2


def test_times_are_those_between_what_happened() -> None:
    turn = begun()
    turn.accept_sampled(Sampled(LETTERS[0]), 5.0)
    turn.accept_sampled(Sampled(LETTERS[0]), 7.0)
    timing = turn.finish(FinishReason.LENGTH, 11.0).timing
    assert (timing.queue_s, timing.prefill_s, timing.first_token_s, timing.decode_s) == (1.0, 3.0, 4.0, 6.0)
    waiting = made((5,)).cancel(4.0).timing
    assert (waiting.queue_s, waiting.prefill_s, waiting.first_token_s, waiting.decode_s) == (3.0, 0.0, 0.0, 0.0)
