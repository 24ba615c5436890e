"""Turns that are cancelled on their stream, over a real socket: what stays of them."""

from __future__ import annotations

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, tokens_of
from tests.service.runtime.waits import slowly


async def test_a_cancelled_turn_keeps_what_was_said(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=ENDLESS)
    events = await stream.until("delta")
    await stream.send(cancel=pb.CancelTurn(turn_id="other"))
    await stream.send(cancel=pb.CancelTurn(turn_id="t"))
    events += await stream.until("finished")
    finished = events[-1].finished
    assert finished.reason == pb.FINISH_REASON_CANCELLED
    assert finished.usage.generated_tokens == len(tokens_of(events))
    prompt = events[0].started.prompt_tokens
    assert finished.usage.position == 1 + prompt + len(tokens_of(events)) + 1
    await stream.turn()
    assert (await stream.finished()).usage.generated_tokens == 6


async def test_a_discarded_turn_leaves_no_trace(bench: Bench) -> None:
    expected = await bench.said("hello", "hello")
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn(text="hello")
    position = (await stream.finished()).usage.position
    await stream.turn("t", text="something else", generation=ENDLESS)
    for _ in range(12):
        await stream.first_delta()
    await stream.send(cancel=pb.CancelTurn(turn_id="t", discard=True))
    finished = await stream.finished()
    assert (finished.reason, finished.usage.position) == (pb.FINISH_REASON_CANCELLED, position)
    await stream.turn(text="hello")
    assert tokens_of(await stream.until("finished")) == expected


async def test_a_waiting_turn_can_be_cancelled(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a", generation=ENDLESS)
    await stream.first_delta()
    await stream.turn("b")
    await stream.send(cancel=pb.CancelTurn(turn_id="b"))
    await stream.send(cancel=pb.CancelTurn(turn_id="a"))
    assert [(await stream.finished()).reason for _ in "ab"] == [pb.FINISH_REASON_CANCELLED] * 2
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session
    assert session.turns == 2
