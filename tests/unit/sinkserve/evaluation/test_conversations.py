"""The table by round, whose every figure is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from sinkserve.client import Finished, FinishReason, Timing, Usage
from sinkserve.evaluation.conversations import Conversations, Exchange, Held, exchange


def turn(
    first_s: float, decode_s: float, generated: int, reply: str = "hi", reason: FinishReason = FinishReason.STOP
) -> Exchange:
    timing = Timing(queue_s=0.0, prefill_s=first_s, time_to_first_token_s=first_s, decode_s=decode_s)
    usage = Usage(prompt_tokens=3, generated_tokens=generated, position=40, evicted_tokens=0)
    return exchange("hello", reply, Finished(reason, usage, timing))


def conversations(*turns: Sequence[Exchange]) -> Conversations:
    return Conversations("demo@1", tuple(Held(index, "", tuple(said)) for index, said in enumerate(turns)), {})


def test_a_round_is_the_median_of_the_conversations_that_reached_it() -> None:
    slow, quick, long = turn(0.5, 2.0, 11), turn(0.1, 1.0, 11), turn(0.2, 1.0, 21)
    found = conversations([slow, long], [quick, quick], [long]).rounds
    assert [(row.first, row.last, row.conversations) for row in found] == [(1, 1, 3), (2, 2, 2)]
    assert [row.time_to_first_token_ms for row in found] == pytest.approx([200, 150])
    assert [row.tokens_per_second for row in found] == pytest.approx([10, 15])


def test_what_a_reply_is_too_short_for_does_not_count() -> None:
    silent, one, more = turn(0.0, 0.0, 0), turn(0.3, 0.0, 1), turn(0.5, 2.0, 3)
    assert (silent.time_to_first_token_ms, silent.tokens_per_second) == (None, None)
    assert (one.time_to_first_token_ms, one.tokens_per_second) == (300.0, None)
    (found,) = conversations([silent], [one], [more]).rounds
    assert (found.replies, found.time_to_first_token_ms, found.tokens_per_second) == (3, 400.0, 1.0)
    (nothing,) = conversations([silent]).rounds
    assert nothing.conversations == 1
    assert math.isnan(nothing.time_to_first_token_ms)
    assert math.isnan(nothing.tokens_per_second)


def test_many_rounds_share_rows_and_say_how_fluent_their_replies_are() -> None:
    plain = turn(0.1, 1.0, 11, "one two three four five")
    loop = turn(0.1, 1.0, 11, "no no no no no no", FinishReason.LENGTH)
    found = conversations([plain] * 30 + [loop] * 15, [plain] * 4).rounds
    assert [(row.first, row.last) for row in found][::14] == [(1, 3), (43, 45)]
    assert [(row.conversations, row.replies) for row in found[:3]] == [(2, 6), (2, 4), (1, 3)]
    assert [row.ended for row in (found[0], found[-1])] == [1, 0]
    assert [row.repeated for row in (found[0], found[-1])] == pytest.approx([0, 2 / 3])
    assert [row.distinct for row in (found[2], found[-1])] == pytest.approx([4 / 12, 1 / 15])


def test_no_conversation_has_no_rounds() -> None:
    assert conversations().rounds == ()
