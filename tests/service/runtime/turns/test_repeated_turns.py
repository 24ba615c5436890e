"""Turns that are sent again, over a real socket: each runs once, and is told again."""

from __future__ import annotations

import grpc

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import TEN
from tests.service.runtime.runtime import ENDLESS, Bench, info, text_of, tokens_of
from tests.service.runtime.waits import slowly


async def test_the_same_turn_never_runs_twice(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    first = await stream.until("finished")
    steps = len(bench.engines[0].steps)
    await stream.turn("t", generation=TEN)
    again = await stream.until("finished")
    assert tokens_of(again) == tokens_of(first)
    assert again[-1] == first[-1]
    assert len(bench.engines[0].steps) == steps


async def test_another_turn_under_the_same_id_is_refused(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t")
    await stream.finished()
    await stream.turn("t", text="something else")
    rejected = await stream.rejected()
    assert rejected.error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert info(rejected.error).reason == "TURN_ID_REUSED"


async def test_a_running_turn_that_is_sent_again_is_told_once(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    await stream.turn("t", generation=TEN)
    events = await stream.until("finished")
    assert len(tokens_of(events)) == 10
    await stream.half_close()
    assert await stream.rest() == []


async def test_a_running_turn_is_heard_to_its_end_however_often_others_are_sent_again(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("old")
    await stream.finished()
    await stream.turn("long", generation=ENDLESS)
    await stream.first_delta()
    for _ in range(40):
        await stream.turn("old")
    await stream.send(cancel=pb.CancelTurn(turn_id="long"))
    while (await stream.finished()).turn_id != "long":
        pass


async def test_a_turn_is_told_again_after_a_restart(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=TEN)
    events = await stream.until("finished")
    await bench.stop()
    await bench.start()
    back = await bench.resumed(stream.session)
    await back.turn("t", generation=TEN)
    retold = await back.until("finished")
    assert (tokens_of(retold), text_of(retold)) == (tokens_of(events), text_of(events))
    assert retold[-1] == events[-1]
    assert not bench.engines[-1].steps
