"""Parts a reply into what it says, what it thinks and what it calls, a token at a time.

A marker that is one token is known by its id, so that a spelled-out one stays text; one that is no token is looked for
in the text. What looks like a call and is none comes as text: nothing is lost. Pieces put together are the whole,
however the reply is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from common.spec.chat.tool_template import CallForm, Marker, Reasoning
from common.text.tools.values import ToolCall
from runtime_service.decoding.detokenizer import Detokenizer
from runtime_service.decoding.parts.call_section import CallSection
from runtime_service.decoding.parts.pieces import CallPiece, Pieces, join_calls

MOST_CALLS = 128
MOST_CALL_CHARACTERS = 1 << 18
"""Of all calls of a reply together."""
_NOTHING = Pieces()


class _Mode(Enum):
    TEXT = auto()
    REASONING = auto()
    CALLS = auto()


@dataclass(frozen=True)
class PartForms:
    """What a reply can consist of besides text. `thinks`: it begins with reasoning, since the prompt opens it.

    `once`: it thinks at its beginning alone; what looks so later is text.
    """

    calls: CallForm | None = None
    names: Collection[str] = ()
    reasoning: Reasoning | None = None
    thinks: bool = False
    once: bool = False


class ReplyParts:
    """Life: `push` every token, then `flush`. `new_id` gives the id of the call with an index."""

    def __init__(self, forms: PartForms, detokenizer: Detokenizer, new_id: Callable[[int], str]) -> None:
        self._forms = forms
        self._detokenizer = detokenizer
        self._new_id = new_id
        self._mode = _Mode.REASONING if forms.thinks else _Mode.TEXT
        self._section: CallSection | None = None
        self._buffer = ""  # may be the beginning of a marker, or of a call without one
        self._blank = ""  # is told if more follows
        self._trims = forms.thinks  # blanks at the beginning are left out
        self._holds = False  # blanks are held back: nothing but calls may follow
        self._bare = forms.calls is not None and forms.calls.opens is None
        marks = [mark for form in (forms.calls, forms.reasoning) if form for mark in (form.opens, form.closes) if mark]
        self._tokens = frozenset(mark.token_id for mark in marks if mark.token_id is not None)
        self._begins = frozenset(mark.text[0] for mark in marks if mark.token_id is None)
        self._called = 0  # characters
        self.calls: list[ToolCall] = []
        self.reasoning_tokens = 0

    def push(self, token_id: int) -> Pieces:
        """Take a token; returns what it adds."""
        before = self._mode
        if token_id in self._tokens:
            marker = next((found for found in self._markers() if found.token_id == token_id), None)
            if marker is not None:
                pieces = self._end_text() + self._at(marker)
                self.reasoning_tokens += _Mode.REASONING in {before, self._mode}
                return pieces
        text = self._detokenizer.push(token_id)
        if self._forms.once and self._mode is _Mode.TEXT and not text.isspace() and text:
            self._say_only()
        if self._is_plain and self._begins.isdisjoint(text):
            return Pieces(text) if text else _NOTHING
        pieces = self._read(text)
        self.reasoning_tokens += _Mode.REASONING in {before, self._mode}
        return pieces

    @property
    def _is_plain(self) -> bool:
        """Whether text is told as it comes, unless it begins a marker: this is most of all replies."""
        return self._mode is _Mode.TEXT and not (self._bare or self._trims or self._holds or self._buffer)

    @property
    def has_most_calls(self) -> bool:
        """Whether it has as many calls as a reply may have."""
        return len(self.calls) >= MOST_CALLS

    @property
    def has_longest_calls(self) -> bool:
        """Whether its calls are as long as those of a reply may be; the last may be cut."""
        return self._called >= MOST_CALL_CHARACTERS

    def flush(self) -> Pieces:
        """What was held back, when the reply ends."""
        pieces = self._end_text()
        if self._section is not None:
            self._section.close()
            pieces += self._leave_calls()
            pieces += self._end_text()
        return pieces

    def _markers(self) -> Sequence[Marker]:
        """Those that mean something here."""
        calls, reasoning = self._forms.calls, self._forms.reasoning
        if self._mode is _Mode.CALLS:
            return [calls.closes] if calls and calls.closes else []
        if self._mode is _Mode.REASONING:
            return [reasoning.closes] if reasoning else []
        opens = [calls.opens] if calls and calls.opens else []
        return [*opens, reasoning.opens] if reasoning else opens

    def _at(self, marker: Marker) -> Pieces:
        """Go on behind a marker of the present mode."""
        if self._section is not None:
            self._section.close(marker.text)
            return self._leave_calls()
        self._blank, self._holds = "", False
        if self._mode is _Mode.REASONING:
            self._mode, self._trims = _Mode.TEXT, True
            if self._forms.once:
                self._say_only()
            self._bare = self._forms.calls is not None and self._forms.calls.opens is None
        elif self._forms.calls and marker == self._forms.calls.opens:
            self._open_calls()
        else:
            self._mode, self._trims = _Mode.REASONING, True
        return Pieces()

    def _say_only(self) -> None:
        """What follows is text."""
        self._forms, self._begins = PartForms(), frozenset()

    def _open_calls(self) -> None:
        assert self._forms.calls is not None
        self._mode = _Mode.CALLS
        self._section = CallSection(self._forms.calls, self._forms.names, self.calls, self._new_id)

    def _leave_calls(self) -> Pieces:
        assert self._section is not None
        rest, self._section, self._mode = self._section.rest, None, _Mode.TEXT
        if self.calls:
            self._blank = ""
        self._bare, self._holds = False, not rest
        return self._read_text(rest)

    def _read(self, text: str) -> Pieces:
        """Take text that was detokenized."""
        pieces = Pieces()
        while text:
            if self._section is not None:
                new, text = self._read_calls(text)
            else:
                new, text = self._read_until_marker(text)
            pieces += new
        return pieces

    def _read_calls(self, text: str) -> tuple[Pieces, str]:
        section, found = self._section, list[CallPiece]()
        assert section is not None
        for index, character in enumerate(text):
            if self.has_most_calls or self.has_longest_calls:
                break  # the reply ends with this token
            self._called += 1
            piece = section.push(character)
            if piece is not None:
                found.append(piece)
            if section.over:
                return Pieces(calls=join_calls(found)) + self._leave_calls(), text[index + 1 :]
        return Pieces(calls=join_calls(found)), ""

    def _read_until_marker(self, text: str) -> tuple[Pieces, str]:
        """Tell the text before a marker that is spelled out, and return what is behind it."""
        text, self._buffer = self._buffer + text, ""
        if self._bare and self._mode is _Mode.TEXT:
            stripped = text.lstrip()
            if not stripped:
                self._buffer = text
                return Pieces(), ""
            self._bare = False
            if stripped.startswith("{"):
                self._blank = "" if self._trims else text[: len(text) - len(stripped)]  # told if it is no call
                self._open_calls()
                return Pieces(), stripped
        spelled = [marker for marker in self._markers() if marker.token_id is None]
        places = [(place, marker) for marker in spelled if (place := text.find(marker.text)) >= 0]
        if places:
            place, marker = min(places, key=lambda found: found[0])
            return self._read_text(text[:place]) + self._at(marker), text[place + len(marker.text) :]
        keep = max((_beginning(text, marker.text) for marker in spelled), default=0)
        self._buffer = text[len(text) - keep :]
        return self._read_text(text[: len(text) - keep]), ""

    def _end_text(self) -> Pieces:
        """What was held back because it could have been the beginning of a marker."""
        held, self._buffer = self._buffer, ""
        return self._read_text(held)

    def _read_text(self, text: str) -> Pieces:
        """Tell text, without the blanks around reasoning and around calls."""
        if self._trims:
            text = text.lstrip()
        if not text:
            return Pieces()
        self._trims = False
        text, self._blank = self._blank + text, ""
        if self._mode is _Mode.REASONING:
            kept = text.rstrip()
            self._blank = text[len(kept) :]
            return Pieces(reasoning=kept)
        if self._holds and text.isspace():
            self._blank = text
            return Pieces()
        self._holds = False
        return Pieces(text)


def _beginning(text: str, marker: str) -> int:
    """How much of the end of `text` is the beginning of `marker`."""
    sizes = range(min(len(text), len(marker) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(marker[:size])), 0)
