"""By which labels a session is found that has heard a history already. Pure.

A client of chat completions sends all that was said each time. A digest of it up to each reply is a label of the
session that said it, `openai.N` behind its N-th reply, so that any door finds it again, and feeds only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.controls import is_name
from sinkserve.client import Tool
from sinkserve.web.errors import WebError
from sinkserve.web.openai.prompt import Message, Prompt

PREFIX = "openai."
"""Of labels that are not the client's metadata."""
_SESSION, _BEFORE, _INSTRUCTIONS = f"{PREFIX}session", f"{PREFIX}before", f"{PREFIX}instructions"
_TOOLS, _KEYS, _TITLE = f"{PREFIX}tools", f"{PREFIX}keys", f"{PREFIX}title"
_BEGAN = (_INSTRUCTIONS, _TOOLS, _KEYS, _TITLE)
_REPLIES_KEPT = 10
_KEY, _VALUE = 63, 255
_DIGITS = 12
"""Of the name of an attempt, as far as a label has it."""
_TITLE_LENGTH = 80


@dataclass(frozen=True)
class Known:
    """The beginning of a history: its first `messages`, with so many `replies`, and the digest of all of it."""

    messages: int
    replies: int
    digest: str

    @property
    def label(self) -> dict[str, str]:
        """By which a session with it is found."""
        return {f"{PREFIX}{self.replies}": self.digest}


def beginnings(prompt: Prompt, messages: Sequence[Message]) -> list[Known]:
    """Each beginning of `messages` that ends with a reply, the longest first, behind all that is before messages."""
    digest = _digest(prompt.model, prompt.system, *([_tools_text(prompt.tools)] if prompt.tools else []))
    found: list[Known] = []
    for index, message in enumerate(messages, start=1):
        digest = _digest(digest, *_words(message))
        if message.role == "assistant":
            found.append(Known(index, len(found) + 1, digest))
    return found[::-1]


def turn_of(known: Known, session: str, labels: Mapping[str, str]) -> int | None:
    """Which turn of a session ended there; None: its labels are those of another, of which it is a fork."""
    return known.replies - int(labels[_BEFORE]) if labels.get(_SESSION) == session else None


def labels_behind(known: Known, session: str, number: int, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a session whose turn `number` ended a history: those before, as far as they are still true."""
    own = {name: value for name, value in labels.items() if not name.startswith(PREFIX) or name in _BEGAN}
    earlier = range(known.replies - 1, max(0, known.replies - _REPLIES_KEPT), -1)
    kept = {name: labels[name] for each in earlier if (name := f"{PREFIX}{each}") in labels}
    return {**own, **kept, **known.label, _SESSION: session, _BEFORE: str(known.replies - number)}


def first_labels(
    metadata: Mapping[str, str], instructions: str | None = None, tools: Sequence[Tool] = ()
) -> dict[str, str]:
    """Of a new session. Raises WebError for metadata that labels cannot hold."""
    for name, value in metadata.items():
        if len(name) > _KEY or len(value) > _VALUE or name.startswith(PREFIX):
            what = f"keys have at most {_KEY} characters and do not begin with {PREFIX!r}, values at most {_VALUE}"
            raise WebError(400, f"metadata.{name[:_KEY]}: {what}", "invalid_value", "metadata")
    began = {_INSTRUCTIONS: instructions, _TOOLS: _tools_text(tools) if tools else ""}
    return {**metadata, **{name: _digest(text) for name, text in began.items() if text}}


def turn_of_attempt(labels: Mapping[str, str], attempt: str) -> int | None:
    """Which turn of a session the attempt of this name was answered by; None: not one of the last that had a key."""
    return next((number for number, name in _attempts(labels) if name == attempt[:_DIGITS]), None)


def with_attempt(labels: Mapping[str, str], number: int, attempt: str) -> dict[str, str]:
    """The labels of a session whose turn `number` answers the attempt of this name; the oldest make room."""
    said = [f"{each}:{name}" for each, name in _attempts(labels) if each != number]
    said.append(f"{number}:{attempt[:_DIGITS]}")
    while len(text := " ".join(said)) > _VALUE:
        del said[0]
    return {**labels, _KEYS: text}


def _attempts(labels: Mapping[str, str]) -> list[tuple[int, str]]:
    pairs = (each.split(":") for each in labels.get(_KEYS, "").split())
    return [(int(number), name) for number, name in pairs]


def title_label(messages: Sequence[Message]) -> dict[str, str]:
    """By which people know a session in a list: the first words of its user; nothing where there are none."""
    said = next((each.content for each in messages if each.role == "user"), "")
    words = " ".join("".join(each if is_name(each) else " " for each in said[: 10 * _TITLE_LENGTH]).split())
    title = words if len(words) <= _TITLE_LENGTH else words[: _TITLE_LENGTH - 1] + "…"
    return {_TITLE: title} if title else {}


def check_instructions(labels: Mapping[str, str], instructions: str | None) -> None:
    """Raises WebError for instructions that are not those that a session began with, which stay."""
    if instructions is not None and labels.get(_INSTRUCTIONS) != (_digest(instructions) if instructions else None):
        what = "this conversation began with other instructions, which stay: leave them out, or begin another one"
        raise WebError(400, f"instructions: {what}", "invalid_value", "instructions")


def goes_without_tools(labels: Mapping[str, str], tools: Sequence[Tool]) -> bool:
    """Whether a session has tools and a request none. Raises WebError for tools that it did not begin with."""
    if tools and labels.get(_TOOLS) != _digest(_tools_text(tools)):
        what = "this conversation began with other tools, which stay: send those, or begin another one"
        raise WebError(400, f"tools: {what}", "invalid_value", "tools")
    return _TOOLS in labels and not tools


def with_metadata(labels: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    """Labels with other metadata. Raises WebError as `first_labels`."""
    return {**{name: labels[name] for name in labels if name.startswith(PREFIX)}, **first_labels(metadata)}


def metadata_of(labels: Mapping[str, str]) -> dict[str, str]:
    """What of the labels is the client's."""
    return {name: value for name, value in labels.items() if not name.startswith(PREFIX)}


def _words(message: Message) -> Iterator[str]:
    """What has to be the same; arguments of calls may be written otherwise, as some clients do."""
    yield from (message.role, message.content)
    if message.call_id:
        yield message.call_id
    for call in message.calls:
        yield from (call.id, call.name, _canonical(call.arguments))


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def _tools_text(tools: Sequence[Tool]) -> str:
    return json.dumps(list(tools), sort_keys=True)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
