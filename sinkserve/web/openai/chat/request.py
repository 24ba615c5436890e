"""The body of a chat completion, and what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from sinkserve.client import GenerationOptions, Tool, ToolCall
from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import MOST, Body, OneOrMore, Sampling, text_of
from sinkserve.web.openai.forms import form_of
from sinkserve.web.openai.prompt import Message, Prompt, split_system
from sinkserve.web.openai.tools import choice_of, tools_of

_SEEDS = 1 << 64


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Sampling):
    """What is taken; the rest is refused by name."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    n: Literal[1] = 1
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Annotated[int | None, Field(ge=1, le=MOST)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MOST)] = None
    stop: Annotated[list[str], OneOrMore, Field(max_length=16)] | None = None
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    response_format: dict[str, Any] | None = None
    store: Literal[False] = False

    @property
    def prompt(self) -> Prompt:
        """Raises WebError for messages that are not supported."""
        messages = [_message(each, f"messages[{index}]") for index, each in enumerate(self.messages)]
        system, said = split_system(messages, "messages")
        tools = tools_of(self)
        return Prompt(self.model, system, said, self._generation(tools), self.metadata, tools=tools)

    def _generation(self, tools: Sequence[Tool]) -> GenerationOptions:
        given = {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "stop": self.stop,
            "seed": None if self.seed is None else self.seed % _SEEDS,
            "logprobs": self.top_logprobs if self.logprobs else None,
            "response_format": form_of(self.response_format, "response_format"),
            "tool_choice": choice_of(self.tool_choice, tools),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        return self.sampling(given)


class _ChatMessage(Body):
    role: str
    content: Any = None
    name: str = ""
    refusal: str = ""
    reasoning_content: str = ""
    tool_call_id: str = ""
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)


class _Call(Body):
    id: str
    type: Literal["function"] = "function"
    function: dict[str, str]


def _message(given: dict[str, Any], where: str) -> Message:
    message = _ChatMessage.parse(given, where)
    if message.name:
        raise WebError(400, f"{where}.name is not supported here", "unsupported_parameter", f"{where}.name")
    calls = [_Call.parse(each, f"{where}.tool_calls[{index}]") for index, each in enumerate(message.tool_calls)]
    content = text_of(message.content, f"{where}.content")
    return Message(message.role, content, tuple(map(_tool_call, calls)), message.tool_call_id)


def _tool_call(call: _Call) -> ToolCall:
    return ToolCall(call.id, call.function.get("name", ""), call.function.get("arguments", ""))
