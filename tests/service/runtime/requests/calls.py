"""Calls of a client that cannot send a stream, and what comes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from runtime_service.domain.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import TEN
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually

HOUR = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=3600))
TAKEN_OVER = (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
CANCELLED = pb.FINISH_REASON_CANCELLED


async def created(bench: Bench, engine: str = "demo", **new_session: Any) -> pb.Session:
    request = pb.CreateSessionRequest(new_session=pb.NewSession(engine=engine, **new_session))
    return (await bench.stub.CreateSession(request)).session


def run(
    bench: Bench,
    session: str,
    turn_id: str = "",
    text: str = "hello",
    *,
    generation: dict[str, Any] = TEN,
    timeout: float | None = None,
) -> Stream:
    """A call of RunTurn."""
    turn = pb.Turn(turn_id=turn_id, text=text, generation=pb.GenerationOptions(**generation))
    return Stream(bench.stub.RunTurn(pb.RunTurnRequest(session=session, turn=turn), timeout=timeout))


async def running(bench: Bench, session: str, turn_id: str) -> Stream:
    """A call whose turn generates until it is cancelled."""
    stream = run(bench, session, turn_id, generation=ENDLESS)
    await stream.first_delta()
    return stream


async def cancel(bench: Bench, session: str, turn_id: str, *, discard: bool = False) -> None:
    await bench.stub.CancelTurn(pb.CancelTurnRequest(session=session, turn_id=turn_id, discard=discard))


async def got(bench: Bench, name: str) -> pb.Session:
    return (await bench.stub.GetSession(pb.GetSessionRequest(name=name))).session


async def history(bench: Bench, session: str) -> list[tuple[str, int]]:
    """Id and reason of every turn."""
    turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns
    return [(turn.turn_id, turn.reason) for turn in turns]


async def becomes(bench: Bench, session: str, expected: Sequence[tuple[str, int]]) -> None:
    """Wait until the session's history is this."""

    async def true() -> bool:
        return await history(bench, session) == list(expected)

    await eventually(true)


def held_add_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, threading.Event]:
    """Turns are kept once the second event is set; the first says that one is asked for."""
    loop, repository = asyncio.get_running_loop(), bench.handle.shared.repository
    asked, answer, add_turn = asyncio.Event(), threading.Event(), repository.add_turn

    def slow_add(session: Any, turn: Turn) -> None:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        add_turn(session, turn)

    monkeypatch.setattr(repository, "add_turn", slow_add)
    return asked, answer
