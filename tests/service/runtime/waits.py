"""Steps that take a while, and ends that are waited for."""

from __future__ import annotations

import time

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, eventually


def slowly(_feeds: object) -> None:
    time.sleep(0.003)


async def settled(bench: Bench, session: str) -> pb.TurnRecord:
    """The session's last turn, once it has ended."""
    turns: list[pb.TurnRecord] = []

    async def has_ended() -> bool:
        turns[:] = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns
        return bool(turns and turns[-1].reason)

    await eventually(has_ended)
    return turns[-1]


async def quiet(bench: Bench) -> None:
    """Wait until no stream is open and no turn runs."""

    async def nothing_left() -> bool:
        return not bench.handle.conversations.streams and not bench.handle.engines.loaded[0].turns

    await eventually(nothing_left)
    await bench.handle.shared.background.wait()
