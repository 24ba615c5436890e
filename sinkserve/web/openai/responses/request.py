"""The body of a request for a response, and what it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import Body, Sampling, text_of
from sinkserve.web.openai.prompt import Message, Prompt, split_system

LOGPROBS = "message.output_text.logprobs"


class _Conversation(Body):
    id: str


class _Format(Body):
    type: Literal["text"] = "text"


class _Text(Body):
    format: _Format = _Format()


class _StreamOptions(Body):
    include_obfuscation: bool = False


class ResponseRequest(Sampling):
    """What is taken; the rest is refused by name."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | _Conversation | None = None
    store: bool = True
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    text: _Text = _Text()
    truncation: Literal["auto"] = "auto"
    background: Literal[False] = False
    stream_options: _StreamOptions = _StreamOptions()
    include: tuple[Literal["message.output_text.logprobs"], ...] = ()
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it goes on with. Raises WebError where it names a response, too."""
        named = self.conversation.id if isinstance(self.conversation, _Conversation) else self.conversation
        if named is not None and self.previous_response_id is not None:
            what = "previous_response_id and conversation: one of them says where to go on"
            raise WebError(400, what, "invalid_value", "previous_response_id")
        return named

    @property
    def prompt(self) -> Prompt:
        """Raises WebError for input that is not supported."""
        system, said = split_system(messages_of(self.input), "input")
        system = "\n\n".join(filter(None, (self.instructions, system)))
        options = {
            "max_new_tokens": self.max_output_tokens,
            "logprobs": self.top_logprobs if LOGPROBS in self.include else None,
        }
        generation = self.sampling(options)
        return Prompt(self.model, system, said, generation, self.metadata, self.instructions, self.store)


class _MessageItem(Body):
    type: Literal["message"] = "message"
    role: str
    content: str | list[dict[str, Any]]
    id: str = ""
    status: str = ""
    phase: str = ""


def messages_of(given: str | list[dict[str, Any]]) -> list[Message]:
    """The messages of an input. Raises WebError for items of other types, by their name."""
    if isinstance(given, str):
        return [Message("user", given)]
    return [_message(item, f"input[{index}]") for index, item in enumerate(given)]


def _message(item: dict[str, Any], where: str) -> Message:
    kind = item.get("type", "message")
    if kind != "message":
        what = f"{where}: items of type {kind!r} are not supported here"
        raise WebError(400, what, "unsupported_value", f"{where}.type")
    message = _MessageItem.parse(item, where)
    return Message(message.role, text_of(message.content, f"{where}.content"))
