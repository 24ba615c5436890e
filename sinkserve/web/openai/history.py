"""By which labels a session is found that has heard a history already. Pure.

A client of chat completions sends all that was said each time. A digest of it up to each reply is a label of the
session that said it, `openai.N` behind its N-th reply, so that any door finds it again, and feeds only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sinkserve.web.errors import WebError
from sinkserve.web.openai.prompt import Message

PREFIX = "openai."
"""Of labels that are not the client's metadata."""
_SESSION, _BEFORE, _INSTRUCTIONS = f"{PREFIX}session", f"{PREFIX}before", f"{PREFIX}instructions"
_REPLIES_KEPT = 12
_KEY, _VALUE = 63, 255


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


def beginnings(begin: Sequence[str], messages: Sequence[Message]) -> list[Known]:
    """Each beginning that ends with a reply, the longest first. `begin` is what is before all messages."""
    digest = _digest("", *begin)
    found: list[Known] = []
    for index, message in enumerate(messages, start=1):
        digest = _digest(digest, *message)
        if message.role == "assistant":
            found.append(Known(index, len(found) + 1, digest))
    return found[::-1]


def turn_of(known: Known, session: str, labels: Mapping[str, str]) -> int | None:
    """Which turn of a session ended there; None: its labels are those of another, of which it is a fork."""
    return known.replies - int(labels[_BEFORE]) if labels.get(_SESSION) == session else None


def labels_behind(known: Known, session: str, number: int, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a session whose turn `number` ended a history: those before, as far as they are still true."""
    own = {name: value for name, value in labels.items() if not name.startswith(PREFIX) or name == _INSTRUCTIONS}
    earlier = range(known.replies - 1, max(0, known.replies - _REPLIES_KEPT), -1)
    kept = {name: labels[name] for each in earlier if (name := f"{PREFIX}{each}") in labels}
    return {**own, **kept, **known.label, _SESSION: session, _BEFORE: str(known.replies - number)}


def first_labels(metadata: Mapping[str, str], instructions: str | None) -> dict[str, str]:
    """Of a new session. Raises WebError for metadata that labels cannot hold."""
    for name, value in metadata.items():
        if len(name) > _KEY or len(value) > _VALUE or name.startswith(PREFIX):
            what = f"keys have at most {_KEY} characters and do not begin with {PREFIX!r}, values at most {_VALUE}"
            raise WebError(400, f"metadata.{name[:_KEY]}: {what}", "invalid_value", "metadata")
    return {**metadata, **({_INSTRUCTIONS: _digest(instructions)} if instructions else {})}


def check_instructions(labels: Mapping[str, str], instructions: str | None) -> None:
    """Raises WebError for instructions that are not those that a session began with, which stay."""
    if instructions is not None and labels.get(_INSTRUCTIONS) != (_digest(instructions) if instructions else None):
        what = "this conversation began with other instructions, which stay: leave them out, or begin another one"
        raise WebError(400, f"instructions: {what}", "invalid_value", "instructions")


def with_metadata(labels: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    """Labels with other metadata. Raises WebError as `first_labels`."""
    return {**{name: labels[name] for name in labels if name.startswith(PREFIX)}, **first_labels(metadata, None)}


def metadata_of(labels: Mapping[str, str]) -> dict[str, str]:
    """What of the labels is the client's."""
    return {name: value for name, value in labels.items() if not name.startswith(PREFIX)}


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
