"""CreateSession over a real socket: sessions of clients that cannot send a stream."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import CANCELS
from tests.service.runtime.requests.calls import HOUR, created, got, history
from tests.service.runtime.runtime import Bench, eventually, refusal, violations


async def test_a_session_is_created_without_a_stream(bench: Bench) -> None:
    session = await created(bench, session_id="mine", labels={"k": "v"}, options=CANCELS)
    assert (session.name, session.engine, session.labels["k"]) == ("sessions/mine", "demo@1", "v")
    assert session.options.on_disconnect == pb.SessionOptions.ON_DISCONNECT_CANCEL
    assert await got(bench, "sessions/mine") == session
    assert await history(bench, "sessions/mine") == []
    assert (await created(bench)).name != (await created(bench)).name


async def test_creating_again_finds_the_session_and_takes_nothing_over(bench: Bench) -> None:
    stream = await bench.opened(session_id="mine")
    await stream.turn()
    await stream.finished()
    again = await created(bench, session_id="mine")
    assert (again.name, again.turns) == ("sessions/mine", 1)
    await stream.turn()
    await stream.finished()
    await bench.restart()
    assert (await created(bench, session_id="mine")).turns == 2
    other = created(bench, session_id="mine", system_prompt="another")
    assert await refusal(other) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")


@pytest.mark.parametrize(
    ("new_session", "code", "field"),
    [
        (pb.NewSession(engine="nobody"), "NOT_FOUND", "new_session.engine"),
        (pb.NewSession(), "INVALID_ARGUMENT", "new_session.engine"),
        (pb.NewSession(engine="demo", session_id="A!"), "INVALID_ARGUMENT", "new_session.session_id"),
        (
            pb.NewSession(engine="demo", options=pb.SessionOptions(window_tokens=0)),
            "INVALID_ARGUMENT",
            "new_session.options.window_tokens",
        ),
    ],
)
async def test_a_wrong_new_session_names_its_field(
    bench: Bench, new_session: pb.NewSession, code: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new_session))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert caught.value.code() is grpc.StatusCode[code]
    assert violations(status) == [field]
    assert "open." not in str(status)


async def test_the_time_of_a_session_that_nobody_opens_runs(bench: Bench) -> None:
    session = await created(bench, session_id="mine", options=HOUR)
    assert (await got(bench, session.name)).HasField("expire_time")
    stream = await bench.resumed(session.name)
    assert not (await got(bench, session.name)).HasField("expire_time")
    await created(bench, session_id="mine", options=HOUR)
    assert not (await got(bench, session.name)).HasField("expire_time")
    await stream.half_close()
    await stream.rest()
    await bench.restart()
    await created(bench, session_id="mine", options=HOUR)
    assert bench.handle.sessions.live[0].session.expires_at is not None


async def test_the_time_of_a_session_runs_although_who_asked_for_it_left_before_it_was_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, repository = asyncio.get_running_loop(), bench.handle.shared.repository
    asked, answer, create = asyncio.Event(), threading.Event(), repository.create

    def slow_create(*session: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        return create(*session)

    monkeypatch.setattr(repository, "create", slow_create)
    stream = bench.stream()
    await stream.send(open=pb.Open(new_session=pb.NewSession(engine="demo", session_id="mine", options=HOUR)))
    await asked.wait()
    stream.call.cancel()

    async def left() -> bool:
        return not bench.handle.conversations.streams

    await eventually(left)
    answer.set()

    async def expires() -> bool:
        return any(live.session.expires_at for live in bench.handle.sessions.live)

    await eventually(expires)
