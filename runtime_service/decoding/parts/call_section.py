"""The part of a reply that calls tools: from its opening marker to its closing one, or as far as there are calls."""

from __future__ import annotations

from collections.abc import Callable, Collection

from common.spec.chat.tool_template import CallForm
from common.text.tools.values import ToolCall
from runtime_service.decoding.parts.call_reader import CallReader
from runtime_service.decoding.parts.pieces import CallPiece

_BETWEEN = frozenset(" \t\r\n,;[]")
"""May stand around calls."""


class CallSection:
    """Life: `push` characters until it is `over`; what was no call after all is in `rest`. Or `close`."""

    def __init__(
        self, form: CallForm, names: Collection[str], calls: list[ToolCall], new_id: Callable[[int], str]
    ) -> None:
        """`calls` are those of the reply so far; more are added. `names` are those of the session's tools."""
        self._form = form
        self._names = names
        self._calls = calls
        self._new_id = new_id
        self._reader: CallReader | None = None
        self._told = False
        self._raw = form.opens.text if form.opens else ""
        self._found = False
        self.over = False
        self.rest = ""
        """Text, with what was pushed last."""

    def push(self, character: str) -> CallPiece | None:
        """Take a character; returns what it adds to a call."""
        if self._reader is None and not self._begins(character):
            self._outside(character)
            return None
        reader = self._reader or CallReader(self._form.name_key, self._form.arguments_key)
        self._reader = reader
        new = reader.push(character)
        if reader.name and not self._told and self._is_foreign(reader.name):
            self._no_call(reader.raw)
            return None
        piece = self._piece(reader, new)
        if reader.ended:
            self._end(reader)
        return piece

    def close(self, marker: str = "") -> None:
        """The section ends here, by the closing `marker` or with the reply."""
        self.over = True
        reader, self._reader = self._reader, None
        if reader is not None and reader.is_call:
            self._add(reader)
        elif reader is not None or not self._found:
            self.rest = self._raw + (reader.raw if reader else "") + marker

    def _begins(self, character: str) -> bool:
        """Whether another call begins."""
        return character == "{" and (self._form.several or not self._calls)

    def _outside(self, character: str) -> None:
        """Between calls there are blanks and commas, and behind them the closing marker."""
        closes = self._form.closes
        self._raw += character
        if closes is not None and closes.token_id is None:
            end = self._raw.lstrip() if self._found else self._raw
            if self._found and end.endswith(closes.text):
                self.over = True
                return
            if self._found and closes.text.startswith(end.lstrip("".join(_BETWEEN))):
                return
        if character not in _BETWEEN:
            self._no_call("")

    def _no_call(self, read: str) -> None:
        self.over, self._reader = True, None
        self.rest = self._raw + read

    def _is_foreign(self, name: str) -> bool:
        """Without a marker, an object is a call only of a tool that there is."""
        return self._form.opens is None and name not in self._names

    def _piece(self, reader: CallReader, new: str) -> CallPiece | None:
        if not reader.is_call:
            return None
        index, told, self._told = len(self._calls), self._told, True
        if not told:
            return CallPiece(index, self._new_id(index), reader.name, new)
        return CallPiece(index, arguments=new) if new else None

    def _end(self, reader: CallReader) -> None:
        if reader.is_call:
            self._add(reader)
        else:
            self._no_call(reader.raw)

    def _add(self, reader: CallReader) -> None:
        call_id = self._new_id(len(self._calls))
        self._calls.append(ToolCall(call_id, reader.name, reader.arguments, incomplete=not reader.is_whole))
        self._reader, self._told, self._found, self._raw = None, False, True, ""
