"""Calls of a server that is leaving, and lists of several pages."""

from __future__ import annotations

import grpc
import pytest

from common import errors as server_errors
from common.errors import Reason
from common.rpc.grpc_status import to_status
from sinkserve.client import Retry, SinkServeError
from sinkserve.client.peer import Peer
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

LEAVING = server_errors.Unavailable(Reason.DRAINING, "the server is stopping", retry_after_s=1.0)
UNLOADED = server_errors.Unavailable(Reason.ENGINE_NOT_LOADED, "it is being unloaded")
PATIENT = Retry(first_s=0.0, attempts_of_call=3)


class Server:
    """Refuses calls by `errors`, one after the other, and answers the rest with pages of one session."""

    def __init__(self, *errors: server_errors.SinkServeError, pages: int = 1) -> None:
        self.errors = list(errors)
        self.pages = pages
        self.asked: list[str] = []

    async def sessions(
        self, request: pb.ListSessionsRequest, metadata: tuple[tuple[str, str], ...]
    ) -> pb.ListSessionsResponse:
        assert metadata == (("where", "here"),)
        self.asked.append(request.page_token)
        if self.errors:
            raise as_called(self.errors.pop(0))
        number = int(request.page_token or 0) + 1
        token = str(number) if number < self.pages else ""
        return pb.ListSessionsResponse(sessions=[pb.Session(name=f"sessions/{number}")], next_page_token=token)

    async def names(self, retry: Retry = PATIENT) -> list[str]:
        listed = Peer("here:1", retry=retry).pages(
            self.sessions, pb.ListSessionsRequest(), lambda page: page.sessions, (("where", "here"),)
        )
        return [session.name async for session in listed]


def as_called(error: server_errors.SinkServeError) -> grpc.aio.AioRpcError:
    details = ("grpc-status-details-bin", to_status(error).SerializeToString())
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(details), "")


@pytest.mark.parametrize("error", [LEAVING, UNLOADED])
async def test_a_server_that_is_leaving_is_asked_again(error: server_errors.SinkServeError) -> None:
    server = Server(error, error)
    assert await server.names() == ["sessions/1"]
    assert len(server.asked) == 3


async def test_one_that_does_not_leave_is_told_of() -> None:
    server = Server(*[LEAVING] * 9)
    with pytest.raises(SinkServeError, match="DRAINING"):
        await server.names()
    assert len(server.asked) == PATIENT.attempts_of_call


@pytest.mark.parametrize("reason", [Reason.DATABASE_UNAVAILABLE, Reason.SESSION_BUSY])
async def test_what_is_not_over_by_asking_another_is_told_at_once(reason: Reason) -> None:
    server = Server(server_errors.Unavailable(reason, "away"))
    with pytest.raises(SinkServeError, match=reason):
        await server.names()
    assert len(server.asked) == 1


async def test_every_page_of_a_list_is_asked_for_and_again_where_a_server_leaves() -> None:
    server = Server(LEAVING, pages=3)
    assert await server.names() == ["sessions/1", "sessions/2", "sessions/3"]
    assert server.asked == ["", "", "1", "2"]
