"""Requests of the runtime's services to plain data, and plain data to responses; nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import InvalidArgument, Reason
from common.grpc_status import to_status
from runtime_service.conversation import Cancel, Close, Open, Request
from runtime_service.engines import LoadedEngine
from runtime_service.events import Event, Finished, GoAway, Heartbeat, Opened, Rejected, Said, Started
from runtime_service.options import GenerationOptions, RequestedOptions
from runtime_service.reply import Delta, TokenLogprobs
from runtime_service.session import NewSession, OnFull, Session, SessionOptions
from runtime_service.slots import Residence
from runtime_service.text import Message
from runtime_service.turn import Result, Timing, Turn, TurnInput, TurnRequest, Usage
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb

_ON_FULL = {
    pb.SessionOptions.ON_FULL_UNSPECIFIED: OnFull.EVICT,
    pb.SessionOptions.ON_FULL_EVICT: OnFull.EVICT,
    pb.SessionOptions.ON_FULL_ERROR: OnFull.ERROR,
}
_STATES = {
    Residence.RESIDENT: pb.Session.STATE_RESIDENT,
    Residence.PARKED: pb.Session.STATE_PARKED,
    Residence.STORED: pb.Session.STATE_STORED,
}
_SCALARS = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logprobs",
    "ignore_eos",
)


# Requests


def request_from_wire(message: pb.ConverseRequest) -> Request:
    """One request of a stream; raises InvalidArgument (INVALID_FIELD) for one that says nothing."""
    match message.WhichOneof("message"):
        case "open":
            return _open(message.open)
        case "turn":
            return _turn(message.turn)
        case "cancel":
            return Cancel(message.cancel.turn_id, discard=message.cancel.discard)
        case "close":
            return Close(delete_session=message.close.delete_session)
    raise _missing("message", "open, turn, cancel or close")


def _open(message: pb.Open) -> Open:
    after = message.after_sequence if message.HasField("after_sequence") else None
    match message.WhichOneof("target"):
        case "new_session":
            return Open(_new_session(message.new_session), after)
        case "session":
            return Open(message.session, after)
    raise _missing("open.target", "new_session or session")


def _new_session(message: pb.NewSession) -> NewSession:
    return NewSession(
        engine=message.engine,
        session_id=message.session_id,
        system_prompt=message.system_prompt,
        options=_session_options(message.options),
        labels=dict(message.labels),
    )


def _session_options(message: pb.SessionOptions) -> SessionOptions:
    if message.on_full not in _ON_FULL:
        field = "open.new_session.options.on_full"
        what = f"{field} is {message.on_full}; it has to be ON_FULL_EVICT or ON_FULL_ERROR"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    idle = message.delete_after_idle
    return SessionOptions(
        pin_system_prompt=_given(message, "pin_system_prompt"),
        sink_tokens=_given(message, "sink_tokens"),
        window_tokens=_given(message, "window_tokens"),
        on_full=_ON_FULL[message.on_full],
        delete_after_idle_s=idle.seconds + idle.nanos / 1e9 if message.HasField("delete_after_idle") else None,
        continue_when_disconnected=message.continue_when_disconnected,
    )


def _turn(message: pb.Turn) -> TurnRequest:
    return TurnRequest(
        turn_id=message.turn_id,
        input=_input(message),
        generation=RequestedOptions(
            **{name: _given(message.generation, name) for name in _SCALARS},
            stop=tuple(message.generation.stop),
            stop_token_ids=tuple(message.generation.stop_token_ids),
        ),
        no_reply=message.no_reply,
        allow_eviction_within_turn=message.allow_eviction_within_turn,
    )


def _input(message: pb.Turn) -> TurnInput:
    match message.WhichOneof("input"):
        case "text":
            return TurnInput(text=message.text)
        case "messages":
            items = message.messages.messages
            return TurnInput(messages=tuple(Message(item.role, item.content) for item in items))
        case "token_ids":
            return TurnInput(token_ids=tuple(message.token_ids.ids))
    return TurnInput()


def _given(message: Any, name: str) -> Any:  # noqa: ANN401 - a field of any type
    return getattr(message, name) if message.HasField(name) else None


def _missing(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} is not set; one of {what} is needed", field=field)


# Responses


def event_to_wire(event: Event) -> pb.ConverseResponse:
    """One event of a stream."""
    response = pb.ConverseResponse(sequence=event.sequence)
    match event.body:
        case Opened() as opened:
            response.opened.CopyFrom(_opened(opened))
        case Started() as started:
            response.started.CopyFrom(_started(started))
        case Said(turn_id, delta):
            response.delta.CopyFrom(_delta(turn_id, delta))
        case Finished(turn_id, result):
            response.finished.CopyFrom(_finished(turn_id, result))
        case Rejected(turn_id, error):
            response.rejected.CopyFrom(pb.TurnRejected(turn_id=turn_id, error=to_status(error)))
        case GoAway(grace_s):
            response.go_away.CopyFrom(pb.GoAway(grace=_duration(grace_s)))
        case Heartbeat():
            response.heartbeat.SetInParent()
    return response


def session_to_wire(session: Session, residence: Residence) -> pb.Session:
    """A session and where its cache is."""
    return pb.Session(
        name=session.name,
        engine=session.engine,
        engine_digest=session.engine_digest,
        position=session.position,
        turns=session.turns,
        state=_STATES[residence],
        labels=session.labels,
        create_time=_timestamp(session.created_at),
        last_active_time=_timestamp(session.last_active_at),
        expire_time=_timestamp(session.expires_at) if session.expires_at else None,
        options=_options_to_wire(session.options),
    )


def turn_to_wire(turn: Turn) -> pb.TurnRecord:
    """A turn as it is listed."""
    given, result = turn.request.input, turn.result
    record = pb.TurnRecord(turn_id=turn.turn_id, create_time=_timestamp(turn.created_at))
    if given.text is not None:
        record.text = given.text
    elif given.messages is not None:
        items = [pb.ChatMessage(role=item.role, content=item.content) for item in given.messages]
        record.messages.CopyFrom(pb.ChatMessages(messages=items))
    else:
        record.token_ids.CopyFrom(pb.TokenIds(ids=given.token_ids))
    if result is not None and turn.ended_at is not None:
        record.reply = result.text
        record.reason = _reason(result)
        record.usage.CopyFrom(_usage(result.usage))
        record.end_time.CopyFrom(_timestamp(turn.ended_at))
    return record


def loaded_to_wire(engine: LoadedEngine) -> engine_pb.LoadedEngine:
    """A loaded engine."""
    return engine_pb.LoadedEngine(
        reference=engine.published.reference,
        digest=engine.published.digest,
        cache=engine_pb2.CacheGeometry(**engine.manifest.spec.cache.model_dump()),
        slots_in_use=engine.slots_in_use,
        turns=engine.turns,
        load_time=_timestamp(engine.loaded_at),
    )


def _opened(opened: Opened) -> pb.Opened:
    return pb.Opened(
        session=session_to_wire(opened.session, opened.residence),
        resumed=opened.resumed,
        events_replayed=opened.events_replayed,
        kv_recomputed=opened.kv_recomputed,
        system_prompt_pinned=opened.session.pinned,
    )


def _options_to_wire(options: SessionOptions) -> pb.SessionOptions:
    idle = options.delete_after_idle_s
    return pb.SessionOptions(
        pin_system_prompt=options.pin_system_prompt,
        sink_tokens=options.sink_tokens,
        window_tokens=options.window_tokens,
        on_full=pb.SessionOptions.OnFull.Value(f"ON_FULL_{options.on_full}"),
        delete_after_idle=None if idle is None else _duration(idle),
        continue_when_disconnected=options.continue_when_disconnected,
    )


def _started(started: Started) -> pb.TurnStarted:
    return pb.TurnStarted(
        turn_id=started.turn_id,
        prompt_tokens=started.prompt_tokens,
        attempt=started.attempt,
        generation=_generation(started.options),
    )


def _generation(options: GenerationOptions) -> pb.GenerationOptions:
    return pb.GenerationOptions(
        **{name: getattr(options, name) for name in _SCALARS},
        stop=options.stop,
        stop_token_ids=options.stop_token_ids,
    )


def _delta(turn_id: str, delta: Delta) -> pb.Delta:
    return pb.Delta(
        turn_id=turn_id,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=[_logprobs(entry) for entry in delta.logprobs],
    )


def _logprobs(entry: TokenLogprobs) -> pb.TokenLogprobs:
    top = [
        pb.TokenLogprobs.TopLogprob(token_id=other.token_id, logprob=other.logprob, token=other.token)
        for other in entry.top
    ]
    return pb.TokenLogprobs(token_id=entry.token_id, logprob=entry.logprob, token=entry.token, top=top)


def _finished(turn_id: str, result: Result) -> pb.TurnFinished:
    return pb.TurnFinished(
        turn_id=turn_id,
        reason=_reason(result),
        usage=_usage(result.usage),
        timing=_timing(result.timing),
        error=None if result.error is None else to_status(result.error),
        stop_sequence=result.stop_sequence,
    )


def _reason(result: Result) -> pb.FinishReason.ValueType:
    return pb.FinishReason.Value(f"FINISH_REASON_{result.reason}")


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        position=usage.position,
        evicted_tokens=usage.evicted_tokens,
    )


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue_duration=_duration(timing.queue_s),
        prefill_duration=_duration(timing.prefill_s),
        time_to_first_token_duration=_duration(timing.first_token_s),
        decode_duration=_duration(timing.decode_s),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
