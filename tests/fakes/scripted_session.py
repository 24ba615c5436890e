"""Sessions of a scripted runtime: their event logs, and how their streams are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from common import errors
from common.errors import Reason
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


@dataclass
class ScriptedSession:
    """One session: its event log, and every turn that was ever accepted."""

    session: pb.Session
    tools: Sequence[pb.Tool] = ()
    log: list[pb.ConverseResponse] = field(default_factory=list)
    turns: dict[str, pb.Turn] = field(default_factory=dict)
    records: list[pb.TurnRecord] = field(default_factory=list)
    runs: int = 0
    sequence: int = 0
    forgotten: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    cancelled: set[str] = field(default_factory=set)
    stream: int = 0
    closing: bool = False

    def __post_init__(self) -> None:
        self.session.tool_names.extend(tool.name for tool in self.tools)

    def pin(self, turn_id: str) -> pb.Session:
        self.session.pinned_turns.append(turn_id)
        return self.session

    def unpin(self, turn_id: str) -> pb.Session:
        self.session.pinned_turns.remove(turn_id)
        return self.session

    async def emit(self, ending: pb.TurnRecord | None = None, **event: Any) -> None:
        async with self.changed:
            if ending is not None:
                ending.reason = event["finished"].reason
            self.sequence += 3  # gaps are allowed
            self.log.append(pb.ConverseResponse(sequence=self.sequence, **event))
            self.changed.notify_all()

    async def cancel(self, turn_id: str) -> None:
        async with self.changed:
            self.cancelled.add(turn_id)
            self.changed.notify_all()

    async def until_cancelled(self) -> None:
        """Wait until somebody has cancelled a turn."""
        async with self.changed:
            await self.changed.wait_for(lambda: bool(self.cancelled))

    async def drained(self) -> None:
        """Wait until all accepted turns have ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: all(record.reason for record in self.records))

    async def forget(self) -> None:
        """Drop the events of ended turns."""
        await self.drained()
        self.forgotten = self.sequence
        self.log.clear()

    async def taken_over(self, stream: int, out: asyncio.Queue[Any]) -> None:
        """Hand out the error of a session that another stream has opened."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.stream != stream)
        out.put_nowait(errors.Aborted(Reason.SESSION_TAKEN_OVER, "another stream opened the session"))

    async def follow(self, cursor: int, out: asyncio.Queue[Any], ending: asyncio.Event) -> None:
        """Hand out events after `cursor`, and None once the stream is ending and all turns have ended."""
        async with self.changed:
            while True:
                for item in [item for item in self.log if item.sequence > cursor]:
                    out.put_nowait(item)
                    cursor = item.sequence
                if ending.is_set() and all(record.reason for record in self.records):
                    out.put_nowait(None)
                await self.changed.wait()


@dataclass
class Loss:
    """Ends the stream after so many responses, with a code and no ErrorInfo, as a proxy or a crash would."""

    after: int
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    effect: Callable[[ScriptedSession], Awaitable[None]] | None = None


def words_of(turn: pb.Turn) -> list[str]:
    text = turn.text or " ".join(message.content for message in turn.messages.messages)
    ids = [f"{token} " for token in turn.token_ids.ids]
    return ids or [f"{word} " for word in text.split()]


def turn_id_of(response: pb.ConverseResponse) -> str:
    event = response.WhichOneof("event")
    return str(getattr(getattr(response, event), "turn_id", "")) if event else ""


def notice_of(session: ScriptedSession, turn: pb.Turn) -> pb.WindowNotice | None:
    """That a token of the turn has left, in a session that wants to know."""
    if session.session.options.on_full != pb.SessionOptions.ON_FULL_NOTIFY:
        return None
    return pb.WindowNotice(start_position=4, end_position=5, turns=1, turn_ids=[turn.turn_id])
