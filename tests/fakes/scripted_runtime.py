"""A runtime without an engine, for tests of clients: it repeats what it is told, and loses streams on demand.

It keeps the rules of the stream (conversation_service.proto): event log a session, turn ids that never run twice,
events repeated after a sequence. Every word of the input is a delta of the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from common import errors
from common.errors import Reason
from common.rpc.grpc_status import to_status
from common.rpc.server import Registration, RunningServer, start_server
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from sinkserve.runtime.v1 import engine_service_pb2_grpc as engine_pb_grpc
from sinkserve.runtime.v1 import usage_service_pb2_grpc as usage_pb_grpc
from tests.fakes.scripted_engines import ScriptedEngines
from tests.fakes.scripted_session import Loss, ScriptedSession, notice_of, turn_id_of, words_of
from tests.fakes.scripted_usage import ScriptedUsage


class ScriptedRuntime(pb_grpc.ConversationServiceServicer):
    """`losses[i]` befalls stream number i, which hears no cancel if in `deaf`; `pace` is awaited before every word."""

    def __init__(self) -> None:
        self.sessions: dict[str, ScriptedSession] = {}
        self.losses: dict[int, Loss] = {}
        self.opens: list[pb.Open] = []
        self.metadata: list[dict[str, str]] = []
        self.go_away_on: set[int] = set()
        self.deaf: set[int] = set()
        self.hold_open: asyncio.Event | None = None
        self.refuse_open: list[errors.SinkServeError] = []
        self.pace: Callable[[], Any] = lambda: asyncio.sleep(0)
        self.tasks: set[asyncio.Task[None]] = set()

    async def Converse(
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Any
    ) -> AsyncIterator[pb.ConverseResponse]:
        number = len(self.opens)
        first = await anext(request_iterator)
        self.opens.append(first.open)
        self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        loss = self.losses.get(number)
        if loss is not None and loss.after == 0:
            await context.abort(loss.code, "lost")
        if self.hold_open is not None:
            await self.hold_open.wait()
        if self.refuse_open:
            raise self.refuse_open.pop(0)
        session, resumed = self._open(first.open)
        async with session.changed:
            session.stream += 1
            session.changed.notify_all()
        sent = 0
        async for response in self._responses(session, first.open, resumed, request_iterator, number):
            yield response
            sent += 1
            if loss is not None and sent >= loss.after:
                if loss.effect is not None:
                    await loss.effect(session)
                await context.abort(loss.code, "lost")

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:
        session, _ = self._open(pb.Open(new_session=request.new_session))
        return pb.CreateSessionResponse(session=session.session)

    async def RunTurn(self, request: pb.RunTurnRequest, context: Any) -> AsyncIterator[pb.ConverseResponse]:
        async def asked() -> AsyncIterator[pb.ConverseRequest]:
            yield pb.ConverseRequest(open=pb.Open(session=request.session))
            yield pb.ConverseRequest(turn=request.turn)

        async for response in self.Converse(asked(), context):
            yield response

    async def CancelTurn(self, request: pb.CancelTurnRequest, context: Any) -> pb.CancelTurnResponse:
        await self._named(request.session).cancel(request.turn_id)
        return pb.CancelTurnResponse()

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Any) -> pb.ForkSessionResponse:
        source = self._named(request.name)
        made = pb.Session(name=f"sessions/{request.session_id}", engine=request.engine or source.session.engine)
        self.sessions[made.name] = ScriptedSession(made)
        return pb.ForkSessionResponse(session=made)

    async def RewindSession(self, request: pb.RewindSessionRequest, context: Any) -> pb.RewindSessionResponse:
        return pb.RewindSessionResponse(session=self._named(request.name).session)

    async def PinTurn(self, request: pb.PinTurnRequest, context: Any) -> pb.PinTurnResponse:
        return pb.PinTurnResponse(session=self._named(request.session).pin(request.turn_id))

    async def UnpinTurn(self, request: pb.UnpinTurnRequest, context: Any) -> pb.UnpinTurnResponse:
        return pb.UnpinTurnResponse(session=self._named(request.session).unpin(request.turn_id))

    def _open(self, opening: pb.Open) -> tuple[ScriptedSession, bool]:
        if opening.WhichOneof("target") == "session":
            if opening.session not in self.sessions:
                name = opening.session
                raise errors.NotFound(Reason.SESSION_NOT_FOUND, f"no session {name}", session=name)
            session = self.sessions[opening.session]
            if opening.HasField("after_sequence") and opening.after_sequence < session.forgotten:
                raise errors.OutOfRange(Reason.EVENTS_EXPIRED, "events are no longer kept")
            return session, True
        new = opening.new_session
        if new.engine == "missing":
            raise errors.NotFound(Reason.ENGINE_NOT_FOUND, "no engine missing", field="open.new_session.engine")
        name = f"sessions/{new.session_id}"
        resumed = name in self.sessions
        if not resumed:
            made = pb.Session(name=name, engine=f"{new.engine}@1", options=new.options, labels=new.labels)
            self.sessions[name] = ScriptedSession(made, new.tools)
        return self.sessions[name], resumed

    async def _responses(
        self,
        session: ScriptedSession,
        opening: pb.Open,
        resumed: bool,
        requests: AsyncIterator[pb.ConverseRequest],
        number: int,
    ) -> AsyncIterator[pb.ConverseResponse]:
        yield pb.ConverseResponse(opened=pb.Opened(session=session.session, resumed=resumed))
        cursor = opening.after_sequence if opening.HasField("after_sequence") else session.sequence
        stream = session.stream
        out: asyncio.Queue[pb.ConverseResponse | Exception | None] = asyncio.Queue()
        ending = asyncio.Event()
        follower = asyncio.create_task(session.follow(cursor, out, ending))
        reader = asyncio.create_task(self._read(session, requests, out, ending, number))
        if number in self.go_away_on:
            out.put_nowait(pb.ConverseResponse(go_away=pb.GoAway()))
        taken = asyncio.create_task(session.taken_over(stream, out))
        try:
            while (response := await out.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            for task in (follower, reader, taken):
                task.cancel()

    async def _read(
        self,
        session: ScriptedSession,
        requests: AsyncIterator[Any],
        out: asyncio.Queue[Any],
        ending: asyncio.Event,
        number: int,
    ) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "turn":
                    self._accept(session, request.turn, out)
                case "cancel" if number not in self.deaf:
                    await session.cancel(request.cancel.turn_id)
                case "close" if request.close.delete_session:
                    await session.drained()
                    del self.sessions[session.session.name]
        async with session.changed:
            ending.set()
            session.changed.notify_all()

    def _accept(self, session: ScriptedSession, turn: pb.Turn, out: asyncio.Queue[Any]) -> None:
        if turn.turn_id in session.turns:
            if session.turns[turn.turn_id] != turn:
                self._reject(turn, errors.AlreadyExists(Reason.TURN_ID_REUSED, "the turn id is taken"), out)
            elif events := [item for item in session.log if turn_id_of(item) == turn.turn_id]:
                for item in events:
                    out.put_nowait(item)
            else:
                self._repeat(session, turn, out)
            return
        if turn.generation.temperature > 10:
            message = "turn.generation.temperature is 11: 0 to 10 is allowed"
            wrong = errors.InvalidArgument(Reason.INVALID_FIELD, message, field="turn.generation.temperature")
            self._reject(turn, wrong, out)
            return
        session.turns[turn.turn_id] = turn
        session.records.append(pb.TurnRecord(turn_id=turn.turn_id, text=turn.text))
        task = asyncio.create_task(self._run(session, turn, session.records[-1]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _reject(self, turn: pb.Turn, error: errors.SinkServeError, out: asyncio.Queue[Any]) -> None:
        out.put_nowait(pb.ConverseResponse(rejected=pb.TurnRejected(turn_id=turn.turn_id, error=to_status(error))))

    def _repeat(self, session: ScriptedSession, turn: pb.Turn, out: asyncio.Queue[Any]) -> None:
        """Events that are not kept come again from the record, in one portion."""
        record = next(item for item in session.records if item.turn_id == turn.turn_id)
        for event in (
            {"started": pb.TurnStarted(turn_id=turn.turn_id, attempt=1)},
            {"delta": pb.Delta(turn_id=turn.turn_id, text=record.reply)},
            {"finished": pb.TurnFinished(turn_id=turn.turn_id, reason=record.reason, usage=record.usage)},
        ):
            session.sequence += 1
            out.put_nowait(pb.ConverseResponse(sequence=session.sequence, **event))

    async def _run(self, session: ScriptedSession, turn: pb.Turn, record: pb.TurnRecord) -> None:
        while next(item for item in session.records if not item.reason) is not record:
            async with session.changed:
                await session.changed.wait()
        session.runs += 1
        words = words_of(turn)
        started = pb.TurnStarted(turn_id=turn.turn_id, attempt=1, prompt_tokens=len(words), generation=turn.generation)
        await session.emit(started=started)
        reason = pb.FINISH_REASON_STOP
        for number, word in enumerate([] if turn.no_reply else words):
            await self.pace()
            if turn.turn_id in session.cancelled:
                reason = pb.FINISH_REASON_CANCELLED
                break
            record.reply += word
            await session.emit(delta=pb.Delta(turn_id=turn.turn_id, text=word, token_ids=[number]))
        if turn.no_reply:
            reason = pb.FINISH_REASON_INPUT_ONLY
        await self._finish(session, turn, record, reason)

    async def _finish(
        self, session: ScriptedSession, turn: pb.Turn, record: pb.TurnRecord, reason: pb.FinishReason.ValueType
    ) -> None:
        session.session.position += 2 * len(words_of(turn))
        session.session.turns += 1
        usage = pb.Usage(
            prompt_tokens=len(words_of(turn)),
            generated_tokens=len(record.reply.split()),
            position=session.session.position,
            evicted_tokens=1,
        )
        record.usage.CopyFrom(usage)
        finished = pb.TurnFinished(turn_id=turn.turn_id, reason=reason, usage=usage, notice=notice_of(session, turn))
        finished.timing.decode_duration.FromMilliseconds(100)
        finished.timing.time_to_first_token_duration.FromMilliseconds(20)
        if "explode" in turn.text:
            finished.reason = pb.FINISH_REASON_ERROR
            error = errors.Internal(Reason.NON_FINITE_LOGITS, "the model gave logits that are not finite")
            finished.error.CopyFrom(to_status(error))
        await session.emit(record, finished=finished)

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=self._named(request.name).session)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        start = int(request.page_token or 0)
        names = [name for name in sorted(self.sessions) if _passes(self.sessions[name].session, request)]
        more = str(start + 1) if start + 1 < len(names) else ""  # one a page, so that pages are followed
        page = [self.sessions[name].session for name in names[start : start + 1]]
        return pb.ListSessionsResponse(sessions=page, next_page_token=more)

    async def UpdateSession(self, request: pb.UpdateSessionRequest, context: Any) -> pb.UpdateSessionResponse:
        session = self._named(request.session.name).session
        if "labels" in request.update_mask.paths:
            session.ClearField("labels")
        if "options.delete_after_idle_duration" in request.update_mask.paths:
            session.options.ClearField("delete_after_idle_duration")
        request.update_mask.MergeMessage(request.session, session)
        return pb.UpdateSessionResponse(session=session)

    async def ListTurns(self, request: pb.ListTurnsRequest, context: Any) -> pb.ListTurnsResponse:
        return pb.ListTurnsResponse(turns=self._named(request.session).records[:: -1 if request.newest_first else 1])

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Any) -> pb.DeleteSessionResponse:
        del self.sessions[self._named(request.name).session.name]
        return pb.DeleteSessionResponse()

    def _named(self, name: str) -> ScriptedSession:
        if name not in self.sessions:
            raise errors.NotFound(Reason.SESSION_NOT_FOUND, f"no session {name}", field="name", session=name)
        return self.sessions[name]


def _passes(session: pb.Session, only: pb.ListSessionsRequest) -> bool:
    on_engine = only.engine in {"", session.engine, session.engine.partition("@")[0]}
    return on_engine and only.labels.items() <= session.labels.items()


async def start_scripted_runtime(runtime: ScriptedRuntime, listen: str = "127.0.0.1:0") -> RunningServer:
    """Serve on a free port; stop it with `stop(0)`."""

    def add_conversations(server: grpc.aio.Server) -> None:
        pb_grpc.add_ConversationServiceServicer_to_server(runtime, server)

    def add_engines(server: grpc.aio.Server) -> None:
        engine_pb_grpc.add_EngineServiceServicer_to_server(ScriptedEngines(), server)

    def add_usage(server: grpc.aio.Server) -> None:
        usage_pb_grpc.add_UsageServiceServicer_to_server(ScriptedUsage(), server)

    return await start_server(
        listen,
        [
            Registration("sinkserve.runtime.v1.ConversationService", add_conversations),
            Registration("sinkserve.runtime.v1.EngineService", add_engines),
            Registration("sinkserve.runtime.v1.UsageService", add_usage),
        ],
    )
