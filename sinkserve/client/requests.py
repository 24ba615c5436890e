"""From keyword arguments to the messages of a conversation. Pure; checks no values, which is the server's to do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from sinkserve.client.reply import ToolCall
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

OnFull = Literal["evict", "error", "notify"]
OnDisconnect = Literal["continue", "cancel"]
Durability = Literal["none", "tokens", "tokens_and_kv"]

_ON_FULL: Mapping[OnFull | None, pb.SessionOptions.OnFull.ValueType] = {
    None: pb.SessionOptions.ON_FULL_UNSPECIFIED,
    "evict": pb.SessionOptions.ON_FULL_EVICT,
    "error": pb.SessionOptions.ON_FULL_ERROR,
    "notify": pb.SessionOptions.ON_FULL_NOTIFY,
}
_ON_DISCONNECT: Mapping[OnDisconnect | None, pb.SessionOptions.OnDisconnect.ValueType] = {
    None: pb.SessionOptions.ON_DISCONNECT_UNSPECIFIED,
    "continue": pb.SessionOptions.ON_DISCONNECT_CONTINUE,
    "cancel": pb.SessionOptions.ON_DISCONNECT_CANCEL,
}
_DURABILITY: Mapping[Durability | None, pb.SessionOptions.Durability.ValueType] = {
    None: pb.SessionOptions.DURABILITY_UNSPECIFIED,
    "none": pb.SessionOptions.DURABILITY_NONE,
    "tokens": pb.SessionOptions.DURABILITY_TOKENS,
    "tokens_and_kv": pb.SessionOptions.DURABILITY_TOKENS_AND_KV,
}


_TOOL_MODES = {
    "auto": pb.ToolChoice.MODE_AUTO,
    "none": pb.ToolChoice.MODE_NONE,
    "required": pb.ToolChoice.MODE_REQUIRED,
}


class Message(TypedDict):
    """One message of a chat: role "user", "assistant" or "tool", and what was said, or the result of a call."""

    role: str
    content: str
    tool_call_id: NotRequired[str]
    """Of a result: the id of the call."""
    name: NotRequired[str]
    """Of a result: which tool it is from."""
    tool_calls: NotRequired[Sequence[ToolCall]]
    """Of the assistant: what it called, where a conversation is given that was held elsewhere."""


class Tool(TypedDict):
    """A function that replies may call. Nothing here calls it."""

    name: str
    """Letters, digits, "_", "-" and "."; at most 64."""
    description: NotRequired[str]
    """What it does, for the model."""
    parameters: NotRequired[Mapping[str, object]]
    """JSON schema of its arguments, an object; left out: it takes none."""


class ResponseFormat(TypedDict, total=False):
    """What a reply has to be; exactly one of these."""

    json_schema: str | Mapping[str, Any]
    """JSON by this schema: as text, or as Python has it."""
    regex: str
    """Text that this regular expression matches as a whole; Rust's syntax."""
    choice: Sequence[str]
    """One of these texts."""
    grammar: str
    """Text by this grammar, in llguidance's form of Lark's syntax."""


class GenerationOptions(TypedDict, total=False):
    """How to generate. What is left out takes the checkpoint's defaults, else the server's."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    logprobs: int
    ignore_eos: bool
    speculated_tokens: int
    response_format: ResponseFormat
    """What the reply has to be; see `Finished.format_matched`."""
    tool_choice: str
    """"auto", also if left out; "none"; "required": the reply calls something; or the name of a tool: it calls this
    one."""


class SessionOptions(TypedDict, total=False):
    """How a new session behaves. What is left out takes the engine's values."""

    system_prompt: str
    """Goes first in the conversation."""
    pin_system_prompt: bool
    """True: it must fit the sinks, which it becomes. False: it is not pinned. Left out: pinned if it fits."""
    sink_tokens: int
    """Sinks, at most the engine's."""
    window_tokens: int
    """Window, at most the engine's."""
    on_full: OnFull
    """What happens when the cache is full: the oldest tokens leave ("evict", also if left out), and a turn says which
    ("notify", see `Finished.notice`); or the turn ends, and no more are taken ("error")."""
    delete_after_idle_s: float
    """Delete the session after so many seconds without a turn or a stream; never if left out."""
    on_disconnect: OnDisconnect
    """What a lost connection does to turns that run or wait: they "continue", also if left out, or it may "cancel"
    them."""
    durability: Durability
    """What of the session outlives its server: "none"; "tokens", from which a lost cache is computed again; or
    "tokens_and_kv", snapshots of the cache besides. As the server is set if left out."""
    recall_tokens: int
    """Read again, before each turn, turns that have left the window and have its words: so many tokens of them, at most
    a quarter of the window; 0 if left out."""
    template_variables: Mapping[str, bool | int | float | str]
    """What the chat template gets by name, such as `{"enable_thinking": False}`: of the choices that the engine's spec
    declares. The first of them where it is left out."""
    labels: Mapping[str, str]
    """Anything to find the session again by."""
    tools: Sequence[Tool]
    """What replies may call; at most 64."""


def new_id() -> str:
    """An id for a session or a turn."""
    return str(uuid.uuid4())


def new_session(engine: str, session_id: str, options: SessionOptions) -> pb.NewSession:
    """The session to create."""
    variables = Struct()
    variables.update(options.get("template_variables", {}))
    return pb.NewSession(
        engine=engine,
        session_id=session_id,
        system_prompt=options.get("system_prompt", ""),
        labels=options.get("labels", {}),
        tools=[_tool(tool) for tool in options.get("tools", ())],
        options=pb.SessionOptions(
            pin_system_prompt=options.get("pin_system_prompt"),
            sink_tokens=options.get("sink_tokens"),
            window_tokens=options.get("window_tokens"),
            on_full=_ON_FULL[options.get("on_full")],
            delete_after_idle_duration=_duration(options.get("delete_after_idle_s")),
            on_disconnect=_ON_DISCONNECT[options.get("on_disconnect")],
            durability=_DURABILITY[options.get("durability")],
            template_variables=variables if variables.fields else None,
            recall_tokens=options.get("recall_tokens", 0),
        ),
    )


def session_update(
    name: str, labels: Mapping[str, str] | None, delete_after_idle_s: float | Literal["never"] | None
) -> pb.UpdateSessionRequest:
    """What to change of a session; raises TypeError where nothing is."""
    request = pb.UpdateSessionRequest(session=pb.Session(name=name, labels=labels or {}))
    if labels is not None:
        request.update_mask.paths.append("labels")
    if delete_after_idle_s is not None:
        request.update_mask.paths.append("options.delete_after_idle_duration")
        if delete_after_idle_s != "never":
            idle = pb.SessionOptions(delete_after_idle_duration=_duration(delete_after_idle_s))
            request.session.options.CopyFrom(idle)
    if not request.update_mask.paths:
        raise TypeError("an update takes labels, delete_after_idle_s, or both")
    return request


def turn_input(text: str | None, messages: Sequence[Message] | None, token_ids: Sequence[int] | None) -> pb.Turn:
    """A turn with its input; raises TypeError unless exactly one kind is given."""
    if sum(item is not None for item in (text, messages, token_ids)) != 1:
        raise TypeError("a turn takes exactly one of text, messages and token_ids")
    if text is not None:
        return pb.Turn(text=text)
    if messages is not None:
        return pb.Turn(messages=pb.ChatMessages(messages=[_message(message) for message in messages]))
    return pb.Turn(token_ids=pb.TokenIds(ids=token_ids))


def results(calls: Sequence[ToolCall], answers: Mapping[str, str]) -> list[Message]:
    """A message for each call with its answer, by its id; raises KeyError for one that has none."""
    return [Message(role="tool", content=answers[call.id], tool_call_id=call.id, name=call.name) for call in calls]


def _message(message: Message) -> pb.ChatMessage:
    calls = [
        pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in message.get("tool_calls", ())
    ]
    return pb.ChatMessage(
        role=message["role"],
        content=message["content"],
        tool_call_id=message.get("tool_call_id", ""),
        name=message.get("name", ""),
        tool_calls=calls,
    )


def recall(tokens: int | None, turn_ids: Sequence[str]) -> pb.Recall | None:
    """What a turn reads again, if it says so itself."""
    return pb.Recall(tokens=tokens, turn_ids=turn_ids) if tokens is not None or turn_ids else None


def generation(options: GenerationOptions) -> pb.GenerationOptions:
    """How to generate, on the wire."""
    asked, choice = options.get("response_format"), options.get("tool_choice")
    others = {"response_format", "tool_choice"}
    scalars: dict[str, Any] = {name: value for name, value in options.items() if name not in others}
    return pb.GenerationOptions(
        **scalars,
        response_format=None if asked is None else _response_format(asked),
        tool_choice=None if choice is None else _tool_choice(choice),
    )


def _response_format(asked: ResponseFormat) -> pb.ResponseFormat:
    """Raises TypeError unless exactly one form is given."""
    if len(asked) != 1:
        raise TypeError("response_format takes exactly one of json_schema, regex, choice and grammar")
    if "choice" in asked:
        return pb.ResponseFormat(choice=pb.Choice(texts=asked["choice"]))
    if "json_schema" in asked:
        schema = asked["json_schema"]
        return pb.ResponseFormat(json_schema=schema if isinstance(schema, str) else json.dumps(schema))
    return (
        pb.ResponseFormat(grammar=asked["grammar"]) if "grammar" in asked else pb.ResponseFormat(regex=asked["regex"])
    )


def _tool(tool: Tool) -> pb.Tool:
    parameters = json.dumps(tool["parameters"], ensure_ascii=False) if tool.get("parameters") else ""
    return pb.Tool(name=tool["name"], description=tool.get("description", ""), parameters=parameters)


def _tool_choice(choice: str) -> pb.ToolChoice:
    mode = _TOOL_MODES.get(choice)
    return pb.ToolChoice(function=choice) if mode is None else pb.ToolChoice(mode=mode)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1_000_000_000))
    return duration
