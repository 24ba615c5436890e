"""Sessions of the runtime service: `Client.sessions`. Talking in one is `Client.conversation`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from sinkserve.client.calls import PAGE_SIZE, answer, pages
from sinkserve.client.stream import SESSION_KEY
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

PREFIX = "sessions/"


class Sessions:
    """Names are `sessions/ID`."""

    def __init__(self, stub: pb_grpc.ConversationServiceAsyncStub, address: str) -> None:
        self._stub = stub
        self._address = address

    async def get(self, name: str) -> pb.Session:
        """One session as it is now. Raises NotFound."""
        call = self._stub.GetSession(pb.GetSessionRequest(name=name), metadata=routing(name))
        return (await answer(call, self._address)).session

    async def list(self) -> AsyncIterator[pb.Session]:
        """All sessions, the last active first."""

        def fetch(token: str) -> grpc.aio.UnaryUnaryCall[pb.ListSessionsRequest, pb.ListSessionsResponse]:
            return self._stub.ListSessions(pb.ListSessionsRequest(page_size=PAGE_SIZE, page_token=token))

        async for session in pages(fetch, lambda page: page.sessions, self._address):
            yield session

    async def turns(self, name: str) -> AsyncIterator[pb.TurnRecord]:
        """All turns of a session, the oldest first. Raises NotFound."""

        def fetch(token: str) -> grpc.aio.UnaryUnaryCall[pb.ListTurnsRequest, pb.ListTurnsResponse]:
            request = pb.ListTurnsRequest(name=name, page_size=PAGE_SIZE, page_token=token)
            return self._stub.ListTurns(request, metadata=routing(name))

        async for turn in pages(fetch, lambda page: page.turns, self._address):
            yield turn

    async def delete(self, name: str) -> None:
        """Delete a session: a running turn is cancelled, a stream on it ends. Raises NotFound."""
        call = self._stub.DeleteSession(pb.DeleteSessionRequest(name=name), metadata=routing(name))
        await answer(call, self._address)


def session_id(name: str) -> str:
    """ID of `sessions/ID`."""
    return name.removeprefix(PREFIX)


def routing(name: str) -> tuple[tuple[str, str], ...]:
    """Metadata by which balancers find the replica of a session."""
    return ((SESSION_KEY, session_id(name)),)
