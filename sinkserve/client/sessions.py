"""Sessions of the runtime service: `Client.sessions`. Talking in one is `Client.conversation`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Literal, Unpack

import grpc

from sinkserve.client import requests
from sinkserve.client.errors import Details, NotFound
from sinkserve.client.peer import PAGE_SIZE, Peer
from sinkserve.client.requests import SessionOptions
from sinkserve.client.stream import SESSION_KEY
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from sinkserve.runtime.v1 import usage_service_pb2 as usage_pb
from sinkserve.runtime.v1 import usage_service_pb2_grpc as usage_pb_grpc

PREFIX = "sessions/"


class Sessions:
    """Names are `sessions/ID`."""

    def __init__(self, runtime: Peer) -> None:
        self._runtime = runtime

    @property
    def _stub(self) -> pb_grpc.ConversationServiceAsyncStub:
        return pb_grpc.ConversationServiceStub(self._runtime.channel)

    async def create(self, engine: str, *, session_id: str = "", **options: Unpack[SessionOptions]) -> pb.Session:
        """A new session with `engine` (an engine reference), without a conversation in it.

        `session_id` is an id of yours (default: a UUID): creating again with the same one finds the session.
        """
        identity = session_id or requests.new_id()
        request = pb.CreateSessionRequest(new_session=requests.new_session(engine, identity, options))
        return (await self._runtime.ask(self._stub.CreateSession, request, routing(identity))).session

    async def cancel_turn(self, name: str, turn_id: str, *, discard: bool = False) -> None:
        """Cancel a turn, whoever waits for it; one that has ended or is unknown stays as it is. Raises NotFound.

        With `discard` the turn is removed from the conversation.
        """
        request = pb.CancelTurnRequest(session=name, turn_id=turn_id, discard=discard)
        await self._runtime.ask(self._stub.CancelTurn, request, routing(name))

    async def get(self, name: str) -> pb.Session:
        """One session as it is now. Raises NotFound."""
        return (await self._runtime.ask(self._stub.GetSession, pb.GetSessionRequest(name=name), routing(name))).session

    async def list(self, *, labels: Mapping[str, str] | None = None, engine: str = "") -> AsyncIterator[pb.Session]:
        """All sessions, the last active first; or those that have all of `labels`, and those with an engine.

        `engine` is NAME, for every version of it, or an engine reference.
        """
        only = pb.ListSessionsRequest(labels=labels or {}, engine=engine, page_size=PAGE_SIZE)
        async for session in self._runtime.pages(self._stub.ListSessions, only, lambda page: page.sessions):
            yield session

    async def update(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        delete_after_idle_s: float | Literal["never"] | None = None,
    ) -> pb.Session:
        """Change all labels of a session, or after how many idle seconds from now it is deleted. Raises NotFound.

        What is left out stays. Raises TypeError where nothing is given.
        """
        request = requests.session_update(name, labels, delete_after_idle_s)
        return (await self._runtime.ask(self._stub.UpdateSession, request, routing(name))).session

    async def turns(
        self, name: str, *, newest_first: bool = False, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.TurnRecord]:
        """All turns of a session, the oldest first, or the newest, asked for `page_size` at a time. Raises NotFound."""
        request = pb.ListTurnsRequest(session=name, page_size=page_size, newest_first=newest_first)
        async for turn in self._turns(request):
            yield turn

    async def turn(self, name: str, turn_id: str) -> pb.TurnRecord:
        """One turn of a session. Raises NotFound."""
        request = pb.ListTurnsRequest(session=name, page_size=PAGE_SIZE, turn_id=turn_id)
        async for turn in self._turns(request):  # of an older server all of them
            if turn.turn_id == turn_id:
                return turn
        what = f"no turn {turn_id!r} in {name}"
        raise NotFound(grpc.StatusCode.NOT_FOUND, what, Details(reason="TURN_NOT_FOUND", retry="never"))

    def _turns(self, request: pb.ListTurnsRequest) -> AsyncIterator[pb.TurnRecord]:
        metadata = routing(request.session)
        return self._runtime.pages(self._stub.ListTurns, request, lambda page: page.turns, metadata)

    async def fork(self, name: str, turn_id: str = "", *, session_id: str = "", engine: str = "") -> pb.Session:
        """A new session that is a copy of another at the end of a turn, or as it is now; the other stays as it is.

        `session_id` is an id of yours (default: a UUID). With `engine` it goes on with that version, which has to have
        the same tokenizer and template. Raises NotFound, FailedPrecondition.
        """
        identity = session_id or requests.new_id()
        request = pb.ForkSessionRequest(name=name, turn_id=turn_id, session_id=identity, engine=engine)
        return (await self._runtime.ask(self._stub.ForkSession, request, routing(name))).session

    async def rewind(self, name: str, turn_id: str, *, drop_turn: bool = False) -> pb.Session:
        """Take a session back to the end of a turn, for ever; with `drop_turn` to its beginning.

        A conversation that is open on it ends: open it again. Raises NotFound.
        """
        request = pb.RewindSessionRequest(name=name, turn_id=turn_id, drop_turn=drop_turn)
        return (await self._runtime.ask(self._stub.RewindSession, request, routing(name))).session

    async def pin(self, name: str, turn_id: str) -> pb.Session:
        """Keep a turn in sight: it is read again whenever the model would not see it. `unpin` lets it go.

        Raises NotFound, and FailedPrecondition (PINS_FULL) where pinned turns would take over a quarter of the window.
        """
        request = pb.PinTurnRequest(session=name, turn_id=turn_id)
        return (await self._runtime.ask(self._stub.PinTurn, request, routing(name))).session

    async def unpin(self, name: str, turn_id: str) -> pb.Session:
        """Let a pinned turn go; one that is not pinned stays as it is. Raises NotFound for the session."""
        request = pb.UnpinTurnRequest(session=name, turn_id=turn_id)
        return (await self._runtime.ask(self._stub.UnpinTurn, request, routing(name))).session

    async def usage(
        self, *, principal: str = "", from_day: str = "", to_day: str = ""
    ) -> AsyncIterator[usage_pb.DayUsage]:
        """What was used by day (YYYY-MM-DD of UTC, bounds included) and engine: your own, or an admin's choice of all.

        Raises PermissionDenied for another principal's.
        """
        stub: usage_pb_grpc.UsageServiceAsyncStub = usage_pb_grpc.UsageServiceStub(self._runtime.channel)
        only = usage_pb.ListUsageRequest(principal=principal, from_day=from_day, to_day=to_day, page_size=PAGE_SIZE)
        async for each in self._runtime.pages(stub.ListUsage, only, lambda page: page.usage):
            yield each

    async def delete(self, name: str) -> None:
        """Delete a session: a running turn is cancelled, a stream on it ends. Raises NotFound."""
        await self._runtime.ask(self._stub.DeleteSession, pb.DeleteSessionRequest(name=name), routing(name))


def session_id(name: str) -> str:
    """ID of `sessions/ID`."""
    return name.removeprefix(PREFIX)


def routing(name: str) -> tuple[tuple[str, str], ...]:
    """Metadata by which balancers find the replica of a session."""
    return ((SESSION_KEY, session_id(name)),)
