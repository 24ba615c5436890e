"""Reads the JSON object of one call while it is written: its name as soon as it is whole, its arguments as they come.

One step a character, whatever came before. What is no object with a name is no call: who reads has it as text then.
"""

from __future__ import annotations

import json
from contextlib import suppress


class CallReader:
    """Life: `push` characters, the first is `{`, until `ended`. `name` is empty until it is known."""

    def __init__(self, name_key: str, arguments_key: str) -> None:
        self._name_key, self._arguments_key = name_key, arguments_key
        self._raw: list[str] = []
        self._depth = 0
        self._in_string = self._escaped = self._in_value = False
        self._string: list[str] = []
        self._key = ""
        self._value: list[str] = []
        self._blank = ""  # may be behind the value
        self._held = ""  # arguments that came before the name
        self._has_arguments = False
        self._told: list[str] = []
        self.name = ""
        self.ended = False
        """The object is closed."""

    @property
    def raw(self) -> str:
        """What was read."""
        return "".join(self._raw)

    @property
    def arguments(self) -> str:
        """What was told of them."""
        return "".join(self._told)

    @property
    def is_call(self) -> bool:
        """Whether there is a name. Arguments that are left out are none."""
        return bool(self.name)

    @property
    def is_whole(self) -> bool:
        """Whether what was read is JSON."""
        with suppress(ValueError, RecursionError):
            return self.ended and isinstance(json.loads(self.raw), dict)
        return False

    def push(self, character: str) -> str:
        """Take a character; returns what it adds to the arguments."""
        self._raw.append(character)
        if self._in_string:
            self._in_text(character)
        elif character == '"':
            self._in_string, self._string = True, ['"']
            self._add(character)
        elif self._depth == 1 and character in ":,":
            self._between(character)
        else:
            self._nest(character)
        return self._new()

    def _in_text(self, character: str) -> None:
        self._string.append(character)
        self._add(character)
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1 and not self._in_value:
                self._key = _string("".join(self._string))

    def _between(self, character: str) -> None:
        if character == ":" and not self._in_value:
            self._in_value, self._value, self._blank = True, [], ""
        elif character == ",":
            self._end_value()
        else:
            self._add(character)

    def _nest(self, character: str) -> None:
        if character in "}]":
            self._depth -= 1
            if not self._depth:
                self._end_value()
                self.ended = True
                return
        self._add(character)
        if character in "{[":
            self._depth += 1

    def _add(self, character: str) -> None:
        """Take a character of a value; blanks around it are not part of it."""
        if not self._in_value:
            return
        if character.isspace() and not self._in_string and self._depth == 1:
            self._blank += character if self._value else ""
            return
        self._value.append(self._blank + character)
        if self._key == self._arguments_key and not self._has_arguments:
            self._held += self._blank + character
        self._blank = ""

    def _end_value(self) -> None:
        if self._in_value and self._key == self._name_key and not self.name:
            self.name = _string("".join(self._value))
        self._has_arguments |= self._in_value and self._key == self._arguments_key
        self._in_value = False

    def _new(self) -> str:
        """Arguments that can be told now."""
        if not self.name:
            return ""
        if self.ended and not self._told and not self._held:
            self._held = "{}"
        new, self._held = self._held, ""
        if new:
            self._told.append(new)
        return new


def _string(text: str) -> str:
    """The string that a JSON text is; empty for anything else, such as half a character."""
    with suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, str) and value.encode() else ""
    return ""
