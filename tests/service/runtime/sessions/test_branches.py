"""Sessions that are forked and taken back, over the wire: what comes after is what would have come."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1.engine_service_pb2 import LoadEngineRequest
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, reason_of, tokens_of

ONE, TWO, THREE = "one fine day", "two of them", "three in a row"


async def _talked(bench: Bench, session_id: str = "s", **options: Any) -> Stream:
    stream = await bench.opened(session_id=session_id, **options)
    for turn_id, text in (("1", ONE), ("2", TWO)):
        await stream.said(turn_id, text)
    return stream


async def _ids(bench: Bench, name: str) -> list[str]:
    return [turn.turn_id for turn in (await bench.stub.ListTurns(pb.ListTurnsRequest(session=name))).turns]


async def _fork(bench: Bench, **request: Any) -> pb.Session:
    return (await bench.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", **request))).session


async def _rewind(bench: Bench, **request: Any) -> pb.Session:
    return (await bench.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", **request))).session


async def _refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


async def test_a_fork_goes_on_as_the_other_does_and_neither_hears_of_the_other(bench: Bench) -> None:
    stream = await _talked(bench)
    fork = await _fork(bench, session_id="f")
    assert (fork.name, fork.turns, fork.engine) == ("sessions/f", 2, "demo@1")
    forked = await bench.resumed("sessions/f")
    assert await forked.said("3", THREE) == await stream.said("3", THREE)
    await forked.said("4", ONE)
    assert await _ids(bench, "sessions/s") == ["1", "2", "3"]
    assert await _ids(bench, "sessions/f") == ["1", "2", "3", "4"]


async def test_a_fork_of_what_is_in_a_slot_computes_nothing_again(bench: Bench) -> None:
    stream = await _talked(bench)
    await _fork(bench, session_id="f")
    fed = sum(len(feed.tokens) for step in bench.engines[0].steps for feed in step)
    forked = stream = Stream(bench.stub.Converse())
    opened = await forked.resume("sessions/f")
    assert not opened.kv_recomputed
    await stream.turn("3", text=THREE)
    finished = await stream.finished()
    again = sum(len(feed.tokens) for step in bench.engines[0].steps for feed in step) - fed
    assert again <= finished.usage.prompt_tokens + finished.usage.generated_tokens + 1, "with a pending token"


async def test_a_fork_at_an_earlier_turn_says_what_was_said_there(bench: Bench) -> None:
    stream = await _talked(bench, "t")
    second = tokens_of([event for event in stream.events if event.delta.turn_id == "2"])
    await _talked(bench)
    await _fork(bench, turn_id="1", session_id="f")
    assert await (await bench.resumed("sessions/f")).said("again", TWO) == second


async def test_the_same_fork_again_is_the_same_session_and_another_is_refused(bench: Bench) -> None:
    await _talked(bench)
    fork = await _fork(bench, session_id="f")
    assert (await _fork(bench, session_id="f")).name == fork.name
    assert await _refused(_fork(bench, session_id="f", turn_id="1")) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "SESSION_EXISTS",
    )
    assert await _refused(_fork(bench, session_id="s")) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    assert (await _fork(bench)).name != (await _fork(bench)).name


async def test_a_fork_while_a_turn_runs_leaves_it_out(bench: Bench) -> None:
    stream = await _talked(bench)
    await stream.turn("3", generation=ENDLESS)
    await stream.first_delta()
    fork = await _fork(bench, session_id="f")
    assert (fork.turns, await _ids(bench, "sessions/f")) == (2, ["1", "2"])
    not_yet = grpc.StatusCode.FAILED_PRECONDITION, "TURN_NOT_FINISHED"
    assert await _refused(_fork(bench, turn_id="3")) == not_yet
    await stream.send(cancel=pb.CancelTurn(turn_id="3"))
    await stream.finished()


async def test_a_fork_goes_on_with_another_version_by_its_tokens(bench: Bench) -> None:
    stream = await _talked(bench)
    bench.publish()
    assert bench.admin is not None
    await EngineServiceStub(bench.admin).LoadEngine(LoadEngineRequest(reference="demo@2"))
    fork = await _fork(bench, session_id="f", engine="demo@2")
    assert fork.engine == "demo@2"
    forked = Stream(bench.stub.Converse())
    assert (await forked.resume("sessions/f")).kv_recomputed
    assert await forked.said("3", THREE) == await stream.said("3", THREE), "the fakes of both are alike"


async def test_a_version_with_other_words_is_refused(bench: Bench) -> None:
    await _talked(bench)
    bench.publish(text=False)
    assert await _refused(_fork(bench, engine="demo@2")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ENGINE_INCOMPATIBLE",
    )


async def test_a_session_that_is_rewound_says_again_what_it_said(bench: Bench) -> None:
    stream = await _talked(bench)
    third = await stream.said("3", THREE)
    rewound = await _rewind(bench, turn_id="2")
    assert rewound.turns == 2
    assert await stream.failure() == (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
    again = await bench.resumed("sessions/s")
    assert await again.said("other", THREE) == third
    assert await _ids(bench, "sessions/s") == ["1", "2", "other"]
    heard = [event.sequence for event in again.events if event.sequence]
    assert min(heard) > max(event.sequence for event in stream.events)


async def test_a_turn_is_asked_for_again_in_other_words(bench: Bench) -> None:
    stream = await _talked(bench)
    second = tokens_of([event for event in stream.events if event.delta.turn_id == "2"])
    await _rewind(bench, turn_id="2", drop_turn=True)
    again = await bench.resumed("sessions/s")
    assert await again.said("2", TWO) == second, "its id is free again"
    await _rewind(bench, turn_id="1", drop_turn=True)
    assert await _ids(bench, "sessions/s") == []


async def test_a_rewind_drops_what_runs_behind_the_turn(bench: Bench) -> None:
    stream = await _talked(bench)
    await stream.turn("3", generation=ENDLESS)
    await stream.first_delta()
    await _rewind(bench, turn_id="2")
    await (await bench.resumed("sessions/s")).said("4", THREE)
    assert await _ids(bench, "sessions/s") == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"name": "sessions/none", "turn_id": "1"}, "NOT_FOUND", "SESSION_NOT_FOUND"),
        ({"name": "sessions/s", "turn_id": "none"}, "NOT_FOUND", "TURN_NOT_FOUND"),
        ({"name": "sessions/s"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"name": "s", "turn_id": "1"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    ],
)
async def test_a_rewind_to_nowhere_changes_nothing(
    bench: Bench, request_: dict[str, Any], code: str, reason: str
) -> None:
    stream = await _talked(bench)
    call = bench.stub.RewindSession(pb.RewindSessionRequest(**request_))
    assert await _refused(call) == (grpc.StatusCode[code], reason)
    assert await _ids(bench, "sessions/s") == ["1", "2"]
    if reason != "TURN_NOT_FOUND":
        await stream.said("3", THREE)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"name": "sessions/none"}, "NOT_FOUND", "SESSION_NOT_FOUND"),
        ({"name": "sessions/s", "turn_id": "none"}, "NOT_FOUND", "TURN_NOT_FOUND"),
        ({"name": "sessions/s", "session_id": "Not good"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"name": "sessions/s", "engine": "none"}, "NOT_FOUND", "ENGINE_NOT_FOUND"),
    ],
)
async def test_a_fork_of_nothing_is_refused(bench: Bench, request_: dict[str, str], code: str, reason: str) -> None:
    stream = await _talked(bench)
    call = bench.stub.ForkSession(pb.ForkSessionRequest(**request_))
    assert await _refused(call) == (grpc.StatusCode[code], reason)
    await stream.said("3", THREE)
