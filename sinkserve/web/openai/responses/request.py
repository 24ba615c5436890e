"""The body of a request for a response, and what it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import MOST, Body, Sampling
from sinkserve.web.openai.forms import form_of
from sinkserve.web.openai.prompt import Prompt, split_system
from sinkserve.web.openai.responses.items import messages_of
from sinkserve.web.openai.tools import choice_of, tools_of

LOGPROBS = "message.output_text.logprobs"


def _id_of(value: object) -> object:
    return value.get("id") if isinstance(value, dict) else value


def _items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class _Text(Body):
    format: dict[str, Any] | None = None


class _StreamOptions(Body):
    include_obfuscation: bool = False


class ResponseRequest(Sampling):
    """What is taken; the rest is refused by name."""

    input: Annotated[list[dict[str, Any]], BeforeValidator(_items)]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[str, BeforeValidator(_id_of)] | None = None
    store: bool = True
    max_output_tokens: Annotated[int | None, Field(ge=1, le=MOST)] = None
    text: _Text = _Text()
    truncation: Literal["auto"] = "auto"
    background: Literal[False] = False
    stream_options: _StreamOptions = _StreamOptions()
    include: list[Literal["message.output_text.logprobs"]] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it goes on with. Raises WebError where it names a response, too."""
        if self.conversation is not None and self.previous_response_id is not None:
            what = "previous_response_id and conversation: one of them says where to go on"
            raise WebError(400, what, "invalid_value", "previous_response_id")
        return self.conversation

    @property
    def prompt(self) -> Prompt:
        """Raises WebError for input that is not supported."""
        system, said = split_system(messages_of(self.input), "input")
        system = "\n\n".join(filter(None, (self.instructions, system)))
        options: dict[str, Any] = {
            "max_new_tokens": self.max_output_tokens,
            "logprobs": self.top_logprobs if LOGPROBS in self.include else None,
        }
        options["response_format"] = form_of(self.text.format, "text.format")
        tools = tools_of(self)
        options["tool_choice"] = choice_of(self.tool_choice, tools)
        generation = self.sampling(options)
        return Prompt(self.model, system, said, generation, self.metadata, self.instructions, self.store, tools)
