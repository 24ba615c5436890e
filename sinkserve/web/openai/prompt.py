"""What a request asks for, whichever of the interfaces it came by."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.requests import Request

from sinkserve.client import GenerationOptions, Tool, ToolCall
from sinkserve.web.errors import WebError


class Message(NamedTuple):
    """What one of them said, or called, or what a call of a tool gave: role "user", "assistant" or "tool"."""

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    """What the assistant called."""
    call_id: str = ""
    """Of a result: which call it is of."""
    name: str = ""
    """Of a result: which tool it is from, if that is known."""


@dataclass(frozen=True)
class Prompt:
    """`messages` are all of a conversation, or what is new in one that the request names.

    The last is the user's, or a tool's.
    """

    model: str
    system: str
    messages: tuple[Message, ...]
    generation: GenerationOptions
    metadata: Mapping[str, str] = field(default_factory=dict)
    instructions: str | None = None
    """What of `system` stands beside the messages; None: nothing was said of it."""
    is_kept: bool = True
    tools: tuple[Tool, ...] = ()


def split_system(messages: Sequence[Message], where: str) -> tuple[str, tuple[Message, ...]]:
    """The leading messages of the system or developer as one text, and the rest.

    Raises WebError for one that comes later, for other roles, and where the last word is not the user's.
    """
    count = next((index for index, each in enumerate(messages) if each.role not in _SYSTEM), len(messages))
    system, rest = "\n\n".join(each.content for each in messages[:count]), tuple(messages[count:])
    for index, each in enumerate(rest, start=count):
        if each.role not in _SAID:
            late = each.role in _SYSTEM
            why = (
                "only the first messages may be the system's"
                if late
                else "it has to be system, user, assistant or tool"
            )
            raise WebError(400, f"{where}[{index}].role is {each.role!r}: {why}", "unsupported_value", where)
    if not rest or rest[-1].role == "assistant":
        raise WebError(400, f"{where} has to end with what the user says, or a tool gave", "invalid_value", where)
    return system, _with_names(rest)


def _with_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Results with the names of their tools, where the calls are among the messages."""
    names = {call.id: call.name for each in messages for call in each.calls}
    return tuple(each._replace(name=each.name or names.get(each.call_id, "")) for each in messages)


_SYSTEM, _SAID = ("system", "developer"), ("user", "assistant", "tool")


class Attempt(NamedTuple):
    """What names a request, so that it is answered once however often it is sent; without a key, each has its own."""

    key: str
    name: str
    """32 hexadecimal digits: the session that it makes, if it makes one."""
    seed: int
    """Of its tokens, where it names none; by it two requests with the same words are told apart."""

    @property
    def is_named(self) -> bool:
        """Whether its client may send it again and mean the same one."""
        return bool(self.key)


def attempt_of(request: Request) -> Attempt:
    """By `Idempotency-Key`, else `X-Request-Id`."""
    key = request.headers.get("idempotency-key") or request.headers.get("x-request-id") or ""
    digest = hashlib.sha256(f"{request.url.path}\n{key}".encode()).digest() if key else secrets.token_bytes(32)
    return Attempt(key, digest[:16].hex(), int.from_bytes(digest[16:23]))
