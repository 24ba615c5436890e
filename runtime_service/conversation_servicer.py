"""ConversationService on the wire: protobuf in, protobuf out; the rules are in `conversation`.

One task reads a stream and one writes it: grpc.aio allows one write at a time. A client that half-closes and one that
vanishes look the same to who reads; what tells them apart is that the handler itself is then cancelled, or its write
fails, and that counts as lost whatever the reader made of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from common.database import LOCAL_PRINCIPAL
from common.errors import Internal, InvalidArgument, Reason, SinkServeError
from common.pages import read_page
from runtime_service.conversation import Close, Conversation, session_id_of
from runtime_service.request_wire import request_from_wire
from runtime_service.response_wire import event_to_wire, session_to_wire, turn_to_wire
from runtime_service.sessions import Sessions
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_LONGEST_PRINCIPAL = 255

log = structlog.get_logger()


class ConversationServicer(pb_grpc.ConversationServiceServicer):
    """See the proto."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._settings = sessions.shared.settings
        self.streams = 0

    async def Converse(  # type: ignore[override]  # writes by itself: a generator is cleaned up too late
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Context
    ) -> None:
        conversation = Conversation(self._sessions, self._principal(context))
        reader = asyncio.create_task(_read(request_iterator, conversation), name="conversation reader")
        self.streams += 1
        try:
            while (events := await conversation.outbox.take(self._settings.heartbeat_s)) is not None:
                for event in events or conversation.silence():
                    await context.write(event_to_wire(event))
            await conversation.finish()
        finally:
            self.streams -= 1
            conversation.lost()
            reader.cancel()

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        found = await self._sessions.get(self._principal(context), session_id_of(request.name, "name"))
        return pb.GetSessionResponse(session=session_to_wire(*found))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        page = read_page(request.page_size, request.page_token, "sessions", (int, int))
        found, token = await self._sessions.page(self._principal(context), page)
        return pb.ListSessionsResponse(sessions=[session_to_wire(*each) for each in found], next_page_token=token)

    async def ListTurns(self, request: pb.ListTurnsRequest, context: Context) -> pb.ListTurnsResponse:
        session_id = session_id_of(request.name, "name")
        page = read_page(request.page_size, request.page_token, f"turns of {request.name}", (int,))
        found, token = await self._sessions.turns(self._principal(context), session_id, page)
        return pb.ListTurnsResponse(turns=[turn_to_wire(turn) for turn in found], next_page_token=token)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        session_id = session_id_of(request.name, "name")
        delete = self._sessions.delete(self._principal(context), session_id)
        await self._sessions.shared.background.whole(delete, f"delete {request.name}")
        return pb.DeleteSessionResponse()

    def _principal(self, context: Context) -> str:
        header = self._settings.principal_header.lower()
        if not header:
            return LOCAL_PRINCIPAL
        values = [value for key, value in context.invocation_metadata() or () if key == header]
        value = str(values[0]) if len(values) == 1 else ""
        if not 1 <= len(value) <= _LONGEST_PRINCIPAL:
            what = f"metadata {header!r} has to name the caller once, in 1 to {_LONGEST_PRINCIPAL} characters"
            raise InvalidArgument(Reason.INVALID_FIELD, what, field=header)
        return value


async def _read(requests: AsyncIterator[pb.ConverseRequest], conversation: Conversation) -> None:
    """Hand every request to the conversation; what is wrong with one ends the stream."""
    try:
        async for message in requests:
            request = request_from_wire(message)
            await conversation.receive(request)
            if isinstance(request, Close):
                return
        await asyncio.sleep(0)  # a cancel of the handler that came with the end of the requests goes first
        conversation.no_more()
    except SinkServeError as error:
        conversation.lost(error)
    except grpc.aio.BaseError:
        return  # the peer left: the handler is told as well
    except Exception:
        log.exception("stream.failed")
        conversation.lost(Internal(Reason.INTERNAL, "the server failed; its log has the details"))
