"""Turns that are refused by what is in them, over a real socket: by which field, and what happens to the stream."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from runtime_service.sessions.live_session import LiveSession
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes import panic
from tests.service.runtime.runtime import VOCABULARY, Bench, info, violations


@pytest.mark.parametrize(
    ("turn", "reason", "field"),
    [
        ({"token_ids": pb.TokenIds(ids=[1, VOCABULARY])}, "TOKEN_OUT_OF_VOCABULARY", "turn.token_ids.ids[1]"),
        ({"token_ids": pb.TokenIds(ids=[-1])}, "TOKEN_OUT_OF_VOCABULARY", "turn.token_ids.ids[0]"),
        ({"token_ids": pb.TokenIds()}, "INVALID_FIELD", "turn.token_ids"),
        ({"token_ids": pb.TokenIds(ids=[5] * 10**6)}, "TURN_EXCEEDS_WINDOW", "turn.token_ids"),
        ({"messages": pb.ChatMessages()}, "INVALID_FIELD", "turn.messages.messages"),
        (
            {"messages": pb.ChatMessages(messages=[pb.ChatMessage(role="robot", content="x")])},
            "INVALID_FIELD",
            "turn.messages.messages[0].role",
        ),
        ({"generation": {"temperature": 11}}, "INVALID_FIELD", "turn.generation.temperature"),
        ({"generation": {"temperature": float("nan")}}, "INVALID_FIELD", "turn.generation.temperature"),
        ({"generation": {"max_new_tokens": 0}}, "INVALID_FIELD", "turn.generation.max_new_tokens"),
        ({"generation": {"top_p": 0}}, "INVALID_FIELD", "turn.generation.top_p"),
        ({"generation": {"stop": [""]}}, "INVALID_FIELD", "turn.generation.stop[0]"),
        ({"turn_id": "x" * 65}, "INVALID_FIELD", "turn.turn_id"),
    ],
)
async def test_a_wrong_turn_is_rejected_by_field_and_the_stream_goes_on(
    bench: Bench, turn: dict[str, Any], reason: str, field: str
) -> None:
    stream = await bench.opened()
    await stream.turn(**{"turn_id": "bad", **turn})
    rejected = await stream.rejected()
    assert rejected.turn_id == turn.get("turn_id", "bad")
    assert info(rejected.error).reason == reason
    assert violations(rejected.error) == [field]
    assert field.rsplit(".", 1)[-1] in rejected.error.message
    await stream.turn("good")
    assert (await stream.finished()).turn_id == "good"


async def test_a_turn_without_input_is_rejected(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.send(turn=pb.Turn(turn_id="empty"))
    assert violations((await stream.rejected()).error) == ["turn.input"]


async def test_an_engine_without_a_template_takes_token_ids_only(bench: Bench) -> None:
    bench.publish("bare", text=False)
    await bench.handle.engines.load(await bench.handle.engines.resolve("bare", "reference"))
    stream = await bench.opened(engine="bare")
    await stream.turn(text="hello")
    assert info((await stream.rejected()).error).reason == "TEXT_UNSUPPORTED"
    await stream.turn(token_ids=pb.TokenIds(ids=[5]))
    assert (await stream.finished()).usage.generated_tokens == 6


async def test_text_that_is_not_utf_8_ends_the_stream_as_malformed(bench: Bench) -> None:
    assert bench.channel is not None
    call: Any = bench.channel.stream_stream("/sinkserve.runtime.v1.ConversationService/Converse")()
    await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="demo"))).SerializeToString())
    await call.read()
    good = pb.ConverseRequest(turn=pb.Turn(text="aa")).SerializeToString()
    await call.write(good.replace(b"aa", b"\xff\xfe"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "turn.text" in (caught.value.details() or "")


async def test_a_tokenizer_that_panics_costs_the_turn_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    panic.panic_at_text(monkeypatch)
    await bench.restart()
    stream = await bench.opened()
    await stream.turn("bad", text=panic.TEXT)
    refused = await stream.rejected()
    assert refused.error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "tokenizer" in refused.error.message
    await stream.turn("good", text="hello")
    await stream.finished()
    opening = bench.stream()
    with pytest.raises(grpc.aio.AioRpcError, match="tokenizer") as caught:
        await opening.open(system_prompt=panic.TEXT)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_what_panics_anywhere_else_ends_the_stream_and_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await bench.opened()
    monkeypatch.setattr(LiveSession, "accept_turn", panic.panic)
    await stream.turn("1")
    assert await stream.failure() == (grpc.StatusCode.INTERNAL, "INTERNAL")
