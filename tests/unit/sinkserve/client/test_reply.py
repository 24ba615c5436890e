"""A reply comes together however its events are cut and repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sinkserve.client import FinishReason
from sinkserve.client.reply import Reply, read_finished
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

TEXT = "Grüße, 世界! 🙂 and on"
IDS = list(range(1, 12))


@st.composite
def passes(draw: st.DrawFn) -> list[pb.Delta]:
    """One pass over the events of the same reply, cut anywhere, text and tokens not in step."""
    count = draw(st.integers(1, 6))
    texts = sorted(draw(st.lists(st.integers(0, len(TEXT)), min_size=count - 1, max_size=count - 1)))
    tokens = sorted(draw(st.lists(st.integers(0, len(IDS)), min_size=count - 1, max_size=count - 1)))
    text_cuts, token_cuts = [0, *texts, len(TEXT)], [0, *tokens, len(IDS)]
    return [
        pb.Delta(
            text=TEXT[text_cuts[index] : text_cuts[index + 1]],
            token_ids=IDS[token_cuts[index] : token_cuts[index + 1]],
            logprobs=[pb.TokenLogprobs(token_id=item) for item in IDS[token_cuts[index] : token_cuts[index + 1]]],
            reasoning=TEXT[text_cuts[index] : text_cuts[index + 1]],
            tool_calls=[_piece(TEXT[text_cuts[index] : text_cuts[index + 1]], is_first=index == 0)],
        )
        for index in range(count)
    ]


def _piece(arguments: str, *, is_first: bool) -> pb.ToolCallDelta:
    return (
        pb.ToolCallDelta(index=0, id="a", name="now", arguments=arguments)
        if is_first
        else pb.ToolCallDelta(arguments=arguments)
    )


@given(st.lists(st.tuples(passes(), st.integers(0, 6)), max_size=4), passes())
def test_interrupted_passes_and_a_whole_one_make_the_reply_once(
    interrupted: list[tuple[list[pb.Delta], int]], whole: list[pb.Delta]
) -> None:
    reply = Reply()
    for deltas, heard in [*interrupted, (whole, len(whole))]:
        reply.start(1)
        for delta in deltas[:heard]:
            reply.append(delta)
    assert reply.text == "".join(delta.text for delta in reply.deltas) == TEXT
    assert reply.token_ids == [token for delta in reply.deltas for token in delta.token_ids] == IDS
    assert [item.token_id for delta in reply.deltas for item in delta.logprobs] == IDS
    assert reply.reasoning == "".join(delta.reasoning for delta in reply.deltas) == TEXT
    pieces = [piece for delta in reply.deltas for piece in delta.tool_calls]
    assert "".join(piece.arguments for piece in pieces) == TEXT
    assert [piece.name for piece in pieces] == ["now", *[""] * (len(pieces) - 1)]


def test_another_attempt_voids_what_came_before() -> None:
    reply = Reply()
    reply.start(1)
    reply.append(pb.Delta(text="one too", token_ids=[1, 2]))
    reply.start(2)
    reply.append(pb.Delta(text="one two", token_ids=[1, 3]))
    assert (reply.text, reply.token_ids, reply.attempt) == ("one two", [1, 3], 2)
    assert [delta.attempt for delta in reply.deltas] == [2]


def test_a_delta_without_anything_new_is_not_delivered() -> None:
    reply = Reply()
    for _ in range(2):
        reply.start(1)
        reply.append(pb.Delta(text="a", token_ids=[1]))
    assert len(reply.deltas) == 1


def test_times_are_seconds_and_reasons_are_words() -> None:
    usage = pb.Usage(generated_tokens=21, drafted_tokens=8, accepted_tokens=3)
    finished = pb.TurnFinished(reason=pb.FINISH_REASON_LENGTH, usage=usage)
    finished.timing.decode_duration.FromMilliseconds(500)
    finished.timing.queue_duration.FromMilliseconds(1)
    read = read_finished(finished)
    assert read.reason is FinishReason.LENGTH
    assert (read.timing.decode_s, read.timing.queue_s) == (0.5, 0.001)
    assert read.tokens_per_second == 40
    assert (read.usage.generated_tokens, read.usage.drafted_tokens, read.usage.accepted_tokens) == (21, 8, 3)
    assert read.error is None


def test_every_reason_has_a_word_and_a_new_one_is_unknown() -> None:
    for value in pb.FinishReason.values()[1:]:
        assert read_finished(pb.TurnFinished(reason=value)).reason is not FinishReason.UNKNOWN
    assert read_finished(pb.TurnFinished.FromString(b"\x10\x63")).reason is FinishReason.UNKNOWN


def test_speed_needs_two_tokens() -> None:
    assert read_finished(pb.TurnFinished(usage=pb.Usage(generated_tokens=1))).tokens_per_second == 0
