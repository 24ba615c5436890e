"""Requests of a stream to plain data; nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.errors import InvalidArgument, Reason
from common.rpc.wire import variables_from_wire
from common.spec.chat.template_choices import Value
from runtime_service.api.requests import Cancel, Close, Open, Refused, Request
from runtime_service.api.tools_wire import choice_from_wire, message_from_wire, tools_from_wire
from runtime_service.domain.durability import Durability
from runtime_service.domain.options import RequestedOptions, check_counts
from runtime_service.domain.recall import Recall, check_turn_ids
from runtime_service.domain.response_format import ResponseFormat
from runtime_service.domain.session import (
    FIELD,
    IDLE_FIELD,
    NewSession,
    OnDisconnect,
    OnFull,
    SessionOptions,
    check_labels,
)
from runtime_service.domain.session_update import LABELS_FIELD, SessionUpdate
from runtime_service.domain.turn import TurnInput, TurnRequest, check_turn_id
from runtime_service.turns.input import turn_too_long
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

_MOST_PATHS = 16
_ON_FULL = {
    pb.SessionOptions.ON_FULL_UNSPECIFIED: OnFull.EVICT,
    pb.SessionOptions.ON_FULL_EVICT: OnFull.EVICT,
    pb.SessionOptions.ON_FULL_ERROR: OnFull.ERROR,
    pb.SessionOptions.ON_FULL_NOTIFY: OnFull.NOTIFY,
}
_ON_DISCONNECT = {
    pb.SessionOptions.ON_DISCONNECT_UNSPECIFIED: OnDisconnect.CONTINUE,
    pb.SessionOptions.ON_DISCONNECT_CONTINUE: OnDisconnect.CONTINUE,
    pb.SessionOptions.ON_DISCONNECT_CANCEL: OnDisconnect.CANCEL,
}
_DURABILITY = {
    pb.SessionOptions.DURABILITY_UNSPECIFIED: None,
    pb.SessionOptions.DURABILITY_NONE: Durability.NONE,
    pb.SessionOptions.DURABILITY_TOKENS: Durability.TOKENS,
    pb.SessionOptions.DURABILITY_TOKENS_AND_KV: Durability.TOKENS_AND_KV,
}
SCALARS = (
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
    "speculated_tokens",
)
"""Fields of GenerationOptions that are one value, by the same names here and there."""


MOST_MESSAGES = 4096
"""Messages that one turn may have."""


def request_from_wire(message: pb.ConverseRequest, window_tokens: int) -> Request:
    """One request of a stream, whose session has a window of so many tokens; a turn that is too long stays unread.

    Raises InvalidArgument (INVALID_FIELD) for a request that says nothing.
    """
    match message.WhichOneof("message"):
        case "open":
            return _open(message.open)
        case "turn":
            return _turn(message.turn, window_tokens)
        case "cancel":
            return Cancel(turn_id_of(message.cancel.turn_id, "cancel.turn_id"), discard=message.cancel.discard)
        case "close":
            return Close(delete_session=message.close.delete_session)
    raise _missing("message", "open, turn, cancel or close")


def turn_id_of(turn_id: str, field: str) -> str:
    """The id of a turn that is asked for; raises InvalidArgument (INVALID_FIELD) for one that no turn may have."""
    check_turn_id(turn_id, field)
    return turn_id


def _open(message: pb.Open) -> Open:
    after = message.after_sequence if message.HasField("after_sequence") else None
    if after is not None and after < 0:
        field = "open.after_sequence"
        raise InvalidArgument(Reason.INVALID_FIELD, f"{field} is {after}; it has to be 0 or more", field=field)
    match message.WhichOneof("target"):
        case "new_session":
            return Open(new_session_from_wire(message.new_session), after)
        case "session":
            return Open(message.session, after)
    raise _missing("open.target", "new_session or session")


def new_session_from_wire(message: pb.NewSession) -> NewSession:
    """A session to create; raises InvalidArgument (INVALID_FIELD)."""
    check_labels(message.labels, f"{FIELD}.labels")
    return NewSession(
        engine=message.engine,
        session_id=message.session_id,
        system_prompt=message.system_prompt,
        options=replace(_session_options(message.options), tools=tools_from_wire(message.tools)),
        labels=dict(message.labels),
    )


def _session_options(message: pb.SessionOptions) -> SessionOptions:
    if message.on_full not in _ON_FULL:
        raise _no_such("on_full", message.on_full, "ON_FULL_EVICT, ON_FULL_ERROR or ON_FULL_NOTIFY")
    if message.on_disconnect not in _ON_DISCONNECT:
        raise _no_such("on_disconnect", message.on_disconnect, "ON_DISCONNECT_CONTINUE or ON_DISCONNECT_CANCEL")
    if message.durability not in _DURABILITY:
        raise _no_such(
            "durability", message.durability, "DURABILITY_NONE, DURABILITY_TOKENS or DURABILITY_TOKENS_AND_KV"
        )
    return SessionOptions(
        pin_system_prompt=_given(message, "pin_system_prompt"),
        sink_tokens=_given(message, "sink_tokens"),
        window_tokens=_given(message, "window_tokens"),
        on_full=_ON_FULL[message.on_full],
        delete_after_idle_s=_idle_s(message),
        on_disconnect=_ON_DISCONNECT[message.on_disconnect],
        durability=_DURABILITY[message.durability],
        recall_tokens=message.recall_tokens,
        template_variables=_template_variables(message),
    )


def _template_variables(message: pb.SessionOptions) -> dict[str, Value]:
    found = variables_from_wire(message.template_variables)
    for name, value in found.items():
        if not isinstance(value, str | int | float):
            field = f"open.new_session.options.template_variables.{name[:100]}"
            what = f"{field} has to be a text, a number, true or false; it is {str(value)[:100]!r}"
            raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    return found


def update_from_wire(message: pb.UpdateSessionRequest) -> SessionUpdate:
    """What to change of a session; raises InvalidArgument (INVALID_FIELD) naming a path that cannot be changed."""
    known = f"{LABELS_FIELD} or {IDLE_FIELD}"
    if (count := len(message.update_mask.paths)) > _MOST_PATHS:
        what = f"update_mask has {count} paths; name {known}"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="update_mask")
    paths = frozenset(message.update_mask.paths)
    if LABELS_FIELD in paths:
        check_labels(message.session.labels, f"session.{LABELS_FIELD}")
    if not paths:
        raise _missing("update_mask", known)
    for path in sorted(paths - {LABELS_FIELD, IDLE_FIELD}):
        what = f"update_mask: {path[:100]!r} cannot be changed; name {known}"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field="update_mask", path=path[:100])
    labels = dict(message.session.labels) if LABELS_FIELD in paths else {}
    return SessionUpdate(paths, labels, _idle_s(message.session.options))


def _idle_s(message: pb.SessionOptions) -> float | None:
    idle = message.delete_after_idle_duration
    return idle.seconds + idle.nanos / 1e9 if message.HasField("delete_after_idle_duration") else None


def _no_such(name: str, value: int, known: str) -> InvalidArgument:
    field = f"open.new_session.options.{name}"
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} is {value}; it has to be {known}", field=field)


def _turn(message: pb.Turn, window_tokens: int) -> TurnRequest | Refused:
    try:
        _check_lengths(message, window_tokens)
    except InvalidArgument as error:
        return Refused(message.turn_id, error)
    return TurnRequest(
        turn_id=message.turn_id,
        input=_input(message),
        generation=RequestedOptions(
            **{name: _given(message.generation, name) for name in SCALARS},
            stop=tuple(message.generation.stop),
            stop_token_ids=tuple(message.generation.stop_token_ids),
            response_format=_format(message.generation),
            tool_choice=choice_from_wire(message.generation),
        ),
        no_reply=message.no_reply,
        allow_eviction_within_turn=message.allow_eviction_within_turn,
        recall=_recall(message.recall) if message.HasField("recall") else None,
    )


def _format(message: pb.GenerationOptions) -> ResponseFormat | None:
    if not message.HasField("response_format"):
        return None
    asked = message.response_format
    form = asked.WhichOneof("form")
    if form == "choice":
        return ResponseFormat(choice=tuple(asked.choice.texts))
    return ResponseFormat() if form is None else ResponseFormat(**{form: getattr(asked, form)})


def _recall(message: pb.Recall) -> Recall:
    return Recall(_given(message, "tokens"), tuple(dict.fromkeys(message.turn_ids)))


def _check_lengths(message: pb.Turn, window_tokens: int) -> None:
    """Raise InvalidArgument for what is too long, before anything is made of it."""
    check_turn_id(message.turn_id, "turn.turn_id")
    tokens, messages = len(message.token_ids.ids), len(message.messages.messages)
    if tokens > window_tokens and not message.allow_eviction_within_turn:
        raise turn_too_long("turn.token_ids", tokens, window_tokens)
    if messages > MOST_MESSAGES:
        field = "turn.messages.messages"
        what = f"{field} has {messages} messages; at most {MOST_MESSAGES} are allowed"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    check_turn_ids(message.recall.turn_ids)
    check_counts(len(message.generation.stop), len(message.generation.stop_token_ids))
    if (asked := _format(message.generation)) is not None:
        asked.check()


def _input(message: pb.Turn) -> TurnInput:
    match message.WhichOneof("input"):
        case "text":
            return TurnInput(text=message.text)
        case "messages":
            items = message.messages.messages
            return TurnInput(messages=tuple(map(message_from_wire, items)))
        case "token_ids":
            return TurnInput(token_ids=tuple(message.token_ids.ids))
    return TurnInput()


def _given(message: Any, name: str) -> Any:  # noqa: ANN401 - a field of any type
    return getattr(message, name) if message.HasField(name) else None


def _missing(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} is not set; one of {what} is needed", field=field)
