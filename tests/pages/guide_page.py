"""The examples of docs/use/builder.md, and whether what they printed is what the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use" / "builder.md"
ANY = "…"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(r"^##+ (.+)$", re.MULTILINE)
_SAMPLE = "<!-- sample -->"
_EXITS = re.compile(r"# exits (\d+)")


@dataclass
class Example:
    """A block of commands, with the lines and the messages that the page says it prints."""

    section: str
    code: str
    lines: list[str] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        """Whether it is a server, which does not end by itself."""
        return self.code.startswith("sinkserve serve")

    @property
    def status(self) -> int:
        """How it exits."""
        return int(found[1]) if (found := _EXITS.search(self.code)) else 0

    def check(self, printed: str) -> None:
        """Raise AssertionError for a line or a message of the page that was not printed, or not in this order."""
        rest = iter([line.rstrip() for line in printed.splitlines()])
        for line in self.lines:
            assert line == ANY or any(_is(line, other) for other in rest), (self.code, line, printed)
        found = iter(list(messages(printed)))
        for message in self.messages:
            assert any(holds(other, message) for other in found), (self.code, message, printed)


def examples() -> list[Example]:
    """All of the page, in order."""
    text, found = PAGE.read_text(), list[Example]()
    for fence in _FENCE.finditer(text):
        kind, body = fence[1], fence[2]
        if kind == "sh":
            found.append(Example(_section(text[: fence.start()]), body))
        elif kind == "text":
            found[-1].lines += body.splitlines()
        elif not text[: fence.start()].rstrip().endswith(_SAMPLE):
            found[-1].messages += messages(body)
    return found


def samples() -> list[str]:
    """JSON that shows a message which no example prints."""
    text = PAGE.read_text()
    return [fence[2] for fence in _FENCE.finditer(text) if text[: fence.start()].rstrip().endswith(_SAMPLE)]


def _section(before: str) -> str:
    """The title of the last section in a text; empty above the first."""
    return next(iter(_SECTION.findall(before)[::-1]), "")


def messages(text: str) -> Iterator[Any]:
    """The JSON objects in a text, whatever else it says."""
    decoder, at = json.JSONDecoder(), 0
    while (start := text.find("{", at)) >= 0:
        try:
            message, at = decoder.raw_decode(text, start)
        except ValueError:
            at = start + 1
        else:
            yield message


def holds(message: Any, part: Any) -> bool:
    """Whether a message has all of `part`; a list, its elements in any place."""
    if isinstance(part, dict):
        return isinstance(message, dict) and all(
            key in message and holds(message[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(message, list) and all(any(holds(one, each) for one in message) for each in part)
    return _is(part, message) if isinstance(part, str) and isinstance(message, str) else bool(part == message)


def _is(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split(ANY))), text, re.DOTALL) is not None
