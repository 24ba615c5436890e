"""Events, sessions, turns and engines to protobuf; nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from common.rpc.grpc_status import to_status
from runtime_service.api.from_wire import SCALARS
from runtime_service.api.shorten import shorten
from runtime_service.api.tools_wire import calls_to_wire, choice_to_wire, message_to_wire, pieces_to_wire
from runtime_service.decoding.delta import Delta, TokenLogprobs
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.session import Session, SessionOptions
from runtime_service.domain.turn import Result, Timing, Turn, Usage
from runtime_service.domain.window_view import WindowNotice
from runtime_service.engines.loaded_engine import LoadedEngine, RefusedEngine
from runtime_service.scheduling.slots import Residence
from runtime_service.turns.events import Event, GoAway, Heartbeat, Opened, TurnFinished, TurnRejected, TurnStarted
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb

_STATES = {
    Residence.RESIDENT: pb.Session.STATE_RESIDENT,
    Residence.PARKED: pb.Session.STATE_PARKED,
    Residence.STORED: pb.Session.STATE_STORED,
}


def event_to_wire(event: Event) -> pb.ConverseResponse:
    """One event of a stream."""
    response = pb.ConverseResponse(sequence=event.sequence)
    match event.body:
        case Opened() as opened:
            response.opened.CopyFrom(_opened(opened))
        case TurnStarted() as started:
            response.started.CopyFrom(_started(event.turn_id, started))
        case Delta() as delta:
            response.delta.CopyFrom(_delta(event.turn_id, delta))
        case TurnFinished(result):
            response.finished.CopyFrom(_finished(event.turn_id, result))
        case TurnRejected(error):
            response.rejected.CopyFrom(pb.TurnRejected(turn_id=event.turn_id, error=to_status(error)))
        case GoAway(grace_s):
            response.go_away.CopyFrom(pb.GoAway(grace_duration=_duration(grace_s)))
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
        owner=session.principal,
        pinned_turns=[pin.turn_id for pin in session.pins],
        window_start_position=session.window_start_position,
        oldest_visible_turn=session.oldest_visible_turn,
        evicted_tokens=session.evicted_tokens,
        tool_names=[tool.name for tool in session.options.tools],
    )


def turn_to_wire(turn: Turn) -> pb.TurnRecord:
    """A turn as it is listed, short enough for a message."""
    turn, shortened = shorten(turn)
    given, result = turn.request.input, turn.result
    record = pb.TurnRecord(turn_id=turn.turn_id, create_time=_timestamp(turn.created_at), shortened=shortened)
    if given.text is not None:
        record.text = given.text
    elif given.messages is not None:
        record.messages.CopyFrom(pb.ChatMessages(messages=map(message_to_wire, given.messages)))
    else:
        record.token_ids.CopyFrom(pb.TokenIds(ids=given.token_ids))
    if result is not None and turn.ended_at is not None:
        record.reply = result.text
        record.reasoning = result.reasoning
        record.tool_calls.extend(calls_to_wire(result.tool_calls))
        record.reason = _reason(result)
        record.usage.CopyFrom(_usage(result.usage))
        record.recalled.extend(_recalled(result.recalled))
        record.end_time.CopyFrom(_timestamp(turn.ended_at))
    return record


def loaded_to_wire(engine: LoadedEngine) -> engine_pb.LoadedEngine:
    """A loaded engine."""
    return engine_pb.LoadedEngine(
        reference=engine.published.reference,
        digest=engine.published.digest,
        cache=engine_pb2.CacheGeometry(**engine.manifest.spec.cache.model_dump()),
        slots=engine.slots,
        slots_in_use=engine.slots_in_use,
        turns=engine.turns,
        load_time=_timestamp(engine.loaded_at),
        golden_margin=engine.margin,
    )


def refused_to_wire(engine: RefusedEngine) -> engine_pb.RefusedEngine:
    """An engine that could not be loaded."""
    return engine_pb.RefusedEngine(
        reference=engine.published.reference,
        digest=engine.published.digest,
        error=to_status(engine.error),
        refuse_time=_timestamp(engine.refused_at),
    )


def _opened(opened: Opened) -> pb.Opened:
    generation = _generation(opened.generation)
    generation.ClearField("seed")
    return pb.Opened(
        session=session_to_wire(opened.session, opened.residence),
        resumed=opened.resumed,
        events_replayed=opened.events_replayed,
        kv_recomputed=opened.kv_recomputed,
        system_prompt_pinned=opened.session.pinned,
        tools_pinned=opened.session.pinned and bool(opened.session.options.tools),
        generation=generation,
    )


def _options_to_wire(options: SessionOptions) -> pb.SessionOptions:
    idle, variables = options.delete_after_idle_s, Struct()
    variables.update(options.template_variables)
    return pb.SessionOptions(
        pin_system_prompt=options.pin_system_prompt,
        sink_tokens=options.sink_tokens,
        window_tokens=options.window_tokens,
        on_full=pb.SessionOptions.OnFull.Value(f"ON_FULL_{options.on_full}"),
        delete_after_idle_duration=None if idle is None else _duration(idle),
        on_disconnect=pb.SessionOptions.OnDisconnect.Value(f"ON_DISCONNECT_{options.on_disconnect}"),
        durability=pb.SessionOptions.Durability.Value(f"DURABILITY_{options.durability or 'UNSPECIFIED'}"),
        template_variables=variables if options.template_variables else None,
        recall_tokens=options.recall_tokens,
    )


def _started(turn_id: str, started: TurnStarted) -> pb.TurnStarted:
    return pb.TurnStarted(
        turn_id=turn_id,
        prompt_tokens=started.prompt_tokens,
        attempt=started.attempt,
        generation=_generation(started.options),
        recalled=_recalled(started.recalled),
    )


def _recalled(turns: Iterable[PastTurn]) -> list[pb.RecalledTurn]:
    return [pb.RecalledTurn(turn_id=turn.turn_id, position=turn.position, tokens=turn.tokens) for turn in turns]


def _generation(options: GenerationOptions) -> pb.GenerationOptions:
    return pb.GenerationOptions(
        **{name: getattr(options, name) for name in SCALARS},
        stop=options.stop,
        stop_token_ids=options.stop_token_ids,
        response_format=None if options.response_format is None else _format(options.response_format),
        tool_choice=choice_to_wire(options.tool_choice),
    )


def _format(asked: ResponseFormat) -> pb.ResponseFormat:
    if asked.choice is not None:
        return pb.ResponseFormat(choice=pb.Choice(texts=asked.choice))
    return pb.ResponseFormat(**{asked.form: getattr(asked, asked.form)})


def _delta(turn_id: str, delta: Delta) -> pb.Delta:
    return pb.Delta(
        turn_id=turn_id,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=[_logprobs(entry) for entry in delta.logprobs],
        reasoning=delta.reasoning,
        tool_calls=pieces_to_wire(delta.calls),
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
        tool_calls=calls_to_wire(result.tool_calls),
        notice=None if result.notice is None else _notice(result.notice),
        format_matched=result.format_matched,
    )


def _notice(notice: WindowNotice) -> pb.WindowNotice:
    return pb.WindowNotice(
        start_position=notice.start, end_position=notice.end, turns=notice.turns, turn_ids=notice.turn_ids
    )


def _reason(result: Result) -> pb.FinishReason.ValueType:
    return pb.FinishReason.Value(f"FINISH_REASON_{result.reason}")


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        position=usage.position,
        evicted_tokens=usage.evicted_tokens,
        drafted_tokens=usage.drafted_tokens,
        accepted_tokens=usage.accepted_tokens,
        recalled_tokens=usage.recalled_tokens,
        window_start_position=usage.window_start_position,
        oldest_visible_turn=usage.oldest_visible_turn,
        reasoning_tokens=usage.reasoning_tokens,
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
