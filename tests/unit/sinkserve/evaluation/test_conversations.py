"""The table by round, whose every figure is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from sinkserve.client import Finished, FinishReason, Timing, Usage
from sinkserve.evaluation.conversations import Conversations, Exchange, Held, Round, exchange


def turn(first_s: float, decode_s: float, generated: int) -> Exchange:
    timing = Timing(queue_s=0.0, prefill_s=first_s, time_to_first_token_s=first_s, decode_s=decode_s)
    usage = Usage(prompt_tokens=3, generated_tokens=generated, position=40, evicted_tokens=0)
    return exchange("hello", "hi", Finished(FinishReason.STOP, usage, timing))


def conversations(*turns: Sequence[Exchange]) -> Conversations:
    return Conversations("demo@1", tuple(Held(index, "", tuple(said)) for index, said in enumerate(turns)), {})


def test_a_round_is_the_median_of_the_conversations_that_reached_it() -> None:
    slow, quick, long = turn(0.5, 2.0, 11), turn(0.1, 1.0, 11), turn(0.2, 1.0, 21)
    found = conversations([slow, long], [quick, quick], [long]).rounds
    assert [(row.number, row.conversations) for row in found] == [(1, 3), (2, 2)]
    assert [row.time_to_first_token_ms for row in found] == pytest.approx([200, 150])
    assert [row.tokens_per_second for row in found] == pytest.approx([10, 15])


def test_what_a_reply_is_too_short_for_does_not_count() -> None:
    silent, one, more = turn(0.0, 0.0, 0), turn(0.3, 0.0, 1), turn(0.5, 2.0, 3)
    assert (silent.time_to_first_token_ms, silent.tokens_per_second) == (None, None)
    assert (one.time_to_first_token_ms, one.tokens_per_second) == (300.0, None)
    assert conversations([silent], [one], [more]).rounds == (Round(1, 3, 400.0, 1.0),)
    (nothing,) = conversations([silent]).rounds
    assert nothing.conversations == 1
    assert math.isnan(nothing.time_to_first_token_ms)
    assert math.isnan(nothing.tokens_per_second)


def test_no_conversation_has_no_rounds() -> None:
    assert conversations().rounds == ()
