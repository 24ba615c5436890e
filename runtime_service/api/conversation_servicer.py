"""ConversationService on the wire: protobuf in, protobuf out; the rules are in `conversation`.

One task reads a stream and one writes it: grpc.aio allows one write at a time. A client that half-closes and one that
vanishes look the same to who reads; what tells them apart is that the handler itself is then cancelled, or its write
fails, and that counts as lost whatever the reader made of it. The reader is never cancelled: it ends with its call, and
a read that is cancelled leaks memory (grpc/grpc issue 43360). See decision 15.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import structlog

from common.auth.principal import Principal
from common.db.paging import read_page
from common.errors import Internal, Reason, SinkServeError
from common.panics import pass_on_ends
from common.rpc.calls.call import current_call
from runtime_service.api.from_wire import new_session_from_wire, request_from_wire, turn_id_of, update_from_wire
from runtime_service.api.requests import Close, session_id_of
from runtime_service.api.stream import ConversationStream
from runtime_service.api.to_wire import event_to_wire, session_to_wire, turn_to_wire
from runtime_service.domain.session import NewSession, check_labels
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.branches import Branches
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.registry import SessionRegistry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_OPEN = "open."

log = structlog.get_logger()


class ConversationServicer(pb_grpc.ConversationServiceServicer):
    """See the proto."""

    def __init__(self, sessions: SessionRegistry, branches: Branches) -> None:
        self._sessions = sessions
        self._branches = branches
        self._settings = sessions.settings
        self._readers: set[asyncio.Task[None]] = set()
        self.streams = 0

    async def Converse(  # type: ignore[override]  # writes by itself: a generator is cleaned up too late
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Context
    ) -> None:
        caller = current_call().principal
        stream = ConversationStream(self._sessions, caller.name, caller.usable_engines, caller.quotas)
        await self._hold(stream, request_iterator, context)

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        with _fields_without_open():
            create = self._create(current_call().principal, new_session_from_wire(request.new_session))
            live = await self._sessions.complete(create, "create")
        return pb.CreateSessionResponse(session=session_to_wire(live.session, live.residence))

    async def RunTurn(  # type: ignore[override]  # writes by itself, as Converse does
        self, request: pb.RunTurnRequest, context: Context
    ) -> None:
        with _fields_without_open():
            caller = current_call().principal
            may = (caller.usable_engines, caller.quotas)
            conversation = ConversationStream(self._sessions, caller.name, *may, one_turn=True)
            await self._hold(conversation, _as_stream(request), context)

    async def CancelTurn(self, request: pb.CancelTurnRequest, context: Context) -> pb.CancelTurnResponse:
        session_id = session_id_of(request.session, "session")
        turn_id = turn_id_of(request.turn_id, "turn_id")
        await self._sessions.cancel(await self._owner(session_id), session_id, turn_id, discard=request.discard)
        return pb.CancelTurnResponse()

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        session_id = session_id_of(request.name, "name")
        found = await self._sessions.get(await self._owner(session_id), session_id)
        return pb.GetSessionResponse(session=session_to_wire(*found))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        check_labels(request.labels, "labels")
        caller = current_call().principal
        only = await self._sessions.filter_of(dict(request.labels), request.engine, caller.usable_engines)
        page = read_page(request.page_size, request.page_token, f"sessions {only}", (int, int))
        found, token = await self._sessions.page(caller.owner, page, only)
        return pb.ListSessionsResponse(sessions=[session_to_wire(*each) for each in found], next_page_token=token)

    async def UpdateSession(self, request: pb.UpdateSessionRequest, context: Context) -> pb.UpdateSessionResponse:
        session_id = session_id_of(request.session.name, "session.name")
        update = self._sessions.update(await self._owner(session_id), session_id, update_from_wire(request))
        updated = await self._sessions.complete(update, f"update {request.session.name}")
        return pb.UpdateSessionResponse(session=session_to_wire(*updated))

    async def ListTurns(self, request: pb.ListTurnsRequest, context: Context) -> pb.ListTurnsResponse:
        session_id = session_id_of(request.session, "session")
        newest_first = request.newest_first
        listing = f"turns of {request.session}{', the newest first' if newest_first else ''}"
        page = read_page(request.page_size, request.page_token, listing, (int,))
        turn_id, owner = turn_id_of(request.turn_id, "turn_id"), await self._owner(session_id)
        found, token = await self._sessions.turns(owner, session_id, page, turn_id, newest_first=newest_first)
        return pb.ListTurnsResponse(turns=[turn_to_wire(turn) for turn in found], next_page_token=token)

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Context) -> pb.ForkSessionResponse:
        session_id = session_id_of(request.name, "name")
        asked = (turn_id_of(request.turn_id, "turn_id"), request.session_id, request.engine)
        caller = current_call().principal
        fork = self._branches.fork(caller.name, session_id, *asked, caller.usable_engines, caller.quotas)
        session = await self._sessions.complete(fork, f"fork of {request.name}")
        return pb.ForkSessionResponse(session=session_to_wire(session, Residence.STORED))

    async def RewindSession(self, request: pb.RewindSessionRequest, context: Context) -> pb.RewindSessionResponse:
        session_id = session_id_of(request.name, "name")
        rewind = self._branches.rewind(
            current_call().principal.name,
            session_id,
            turn_id_of(request.turn_id, "turn_id"),
            drop_turn=request.drop_turn,
        )
        session = await self._sessions.complete(rewind, f"rewind of {request.name}")
        return pb.RewindSessionResponse(session=session_to_wire(session, Residence.STORED))

    async def PinTurn(self, request: pb.PinTurnRequest, context: Context) -> pb.PinTurnResponse:
        pinned = await self._pin(request.session, request.turn_id, pinned=True)
        return pb.PinTurnResponse(session=pinned)

    async def UnpinTurn(self, request: pb.UnpinTurnRequest, context: Context) -> pb.UnpinTurnResponse:
        unpinned = await self._pin(request.session, request.turn_id, pinned=False)
        return pb.UnpinTurnResponse(session=unpinned)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        session_id = session_id_of(request.name, "name")
        delete = self._sessions.delete(await self._owner(session_id), session_id)
        await self._sessions.complete(delete, f"delete {request.name}")
        return pb.DeleteSessionResponse()

    async def _pin(self, name: str, turn_id: str, *, pinned: bool) -> pb.Session:
        session_id = session_id_of(name, "session")
        asked = (await self._owner(session_id), session_id, turn_id_of(turn_id, "turn_id"))
        pin = self._sessions.pin(*asked, pinned=pinned)
        return session_to_wire(*await self._sessions.complete(pin, f"pins of {name}"))

    async def _hold(
        self, conversation: ConversationStream, requests: AsyncIterator[pb.ConverseRequest], context: Context
    ) -> None:
        """Read and write until the conversation is over."""
        self._start_reader(requests, conversation)
        self.streams += 1
        try:
            while (events := await conversation.outbox.take(self._settings.heartbeat_s)) is not None:
                for event in events or conversation.silence():
                    await context.write(event_to_wire(event))
            await conversation.finish()
        finally:
            self.streams -= 1
            conversation.lost()

    def _start_reader(self, requests: AsyncIterator[pb.ConverseRequest], conversation: ConversationStream) -> None:
        reader = asyncio.create_task(_read(requests, conversation), name="conversation reader")
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)

    async def _create(self, caller: Principal, asked: NewSession) -> LiveSession:
        live, _ = await self._sessions.create(caller.name, asked, caller.usable_engines, caller.quotas)
        live.update_expiry()
        return live

    async def _owner(self, session_id: str) -> str:
        """Whose session the caller means; an admin may mean anybody's, and talks in none but their own."""
        return await self._sessions.owner_of(session_id, current_call().principal)


async def _as_stream(request: pb.RunTurnRequest) -> AsyncIterator[pb.ConverseRequest]:
    """What a client with a stream would send for one turn."""
    yield pb.ConverseRequest(open=pb.Open(session=request.session))
    yield pb.ConverseRequest(turn=request.turn)


@contextmanager
def _fields_without_open() -> Iterator[None]:
    """Errors name fields as they lie in `open`, which calls without a stream do not have around them."""
    try:
        yield
    except SinkServeError as error:
        raise _without_open(error) from None


def _without_open(error: SinkServeError) -> SinkServeError:
    paths = [item.field for item in error.violations if item.field.startswith(_OPEN)]
    if not paths:
        return error

    def bare(text: str) -> str:
        for path in paths:
            text = text.replace(path, path.removeprefix(_OPEN))
        return text

    violations = tuple(
        replace(item, field=bare(item.field), description=bare(item.description)) for item in error.violations
    )
    return type(error)(
        error.reason, bare(error.message), violations=violations, retry_after_s=error.retry_after_s, **error.metadata
    )


async def _read(requests: AsyncIterator[pb.ConverseRequest], conversation: ConversationStream) -> None:
    """Hand every request to the conversation; what is wrong with one ends the stream.

    Once that is over nothing is taken any more: a turn would run with nobody to hear it.
    """
    try:
        async for message in requests:
            if conversation.outbox.closed:
                return
            request = request_from_wire(message, conversation.window_tokens)
            await conversation.receive(request)
            if isinstance(request, Close) or not await conversation.wants_more():
                return
        await asyncio.sleep(0)  # a cancel of the handler that came with the end of the requests goes first
        conversation.no_more()
    except SinkServeError as error:
        conversation.lost(error)
    except grpc.aio.BaseError:
        return  # the call ended: the handler knows
    except BaseException as error:  # nobody cancels a reader, only what it waits for
        if not isinstance(error, asyncio.CancelledError):
            pass_on_ends(error)
        log.exception("stream.failed", session=conversation.session)
        conversation.lost(Internal(Reason.INTERNAL, "the server failed; its log has the details"))
