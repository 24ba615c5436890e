"""Turns that fill the window of their session, over a real socket: what is evicted, and what is refused."""

from __future__ import annotations

import grpc
import pytest

from common.text.wrapping import Wrapping
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, info

WINDOW = pb.SessionOptions(window_tokens=20, sink_tokens=2)


async def test_a_conversation_goes_on_past_its_window(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    evicted = 0
    for _ in range(10):
        await stream.turn()
        finished = await stream.finished()
        evicted += finished.usage.evicted_tokens
    assert finished.usage.position > 5 * 22
    assert evicted == finished.usage.position - 22


async def test_a_session_that_does_not_evict_fills_and_then_refuses(bench: Bench) -> None:
    options = pb.SessionOptions(window_tokens=20, sink_tokens=2, on_full=pb.SessionOptions.ON_FULL_ERROR)
    stream = await bench.opened(options=options)
    await stream.turn(generation=ENDLESS)
    finished = await stream.finished()
    assert finished.reason == pb.FINISH_REASON_CONTEXT_FULL
    assert finished.usage.position == 22
    await stream.turn()
    rejected = await stream.rejected()
    assert rejected.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert info(rejected.error).reason == "CONTEXT_FULL"


async def test_an_input_longer_than_the_window_is_refused_unless_allowed(bench: Bench) -> None:
    stream = await bench.opened(options=WINDOW)
    ids = pb.TokenIds(ids=list(range(30)))
    await stream.turn("long", token_ids=ids)
    rejected = await stream.rejected()
    assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
    assert info(rejected.error).metadata == {"tokens": "30", "window": "20", "retry": "never"}
    await stream.turn("long", token_ids=ids, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 30


async def test_an_input_far_too_long_is_refused_without_encoding_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def noted(_wrapping: Wrapping, content: str, _encode: object) -> tuple[int, ...]:
        encoded.append(content)
        return (7,) * 21

    monkeypatch.setattr(Wrapping, "_of_user", noted)
    stream = await bench.opened(options=WINDOW)
    said = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="a b " * 25_000)])
    for turn in ({"text": "a b " * 25_000}, {"messages": said}):
        await stream.turn("long", **turn)
        rejected = await stream.rejected()
        assert info(rejected.error).reason == "TURN_EXCEEDS_WINDOW"
        assert "at least" in rejected.error.message
        assert encoded == []
    await stream.turn("long", text="a b " * 25_000, allow_eviction_within_turn=True)
    assert (await stream.finished()).usage.prompt_tokens == 24
    assert len(encoded) == 1
