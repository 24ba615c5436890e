"""Items of an output, and the events by which they come: what was thought, said and called. Pure.

Each item is open from its first piece to the end of the reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sinkserve.client import ToolCallDelta
from sinkserve.web.openai.ids import TurnName

Event = dict[str, Any]


@dataclass
class _Item:
    """One; `text` is what was said or thought, or the arguments of a call."""

    index: int
    id: str
    kind: str
    text: str = ""
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def as_it_is(self, status: str) -> dict[str, Any]:
        """The item."""
        status = status if status in ("in_progress", "incomplete") else "completed"
        if self.kind == _CALL:
            return call_item(self.id, self.call_id, self.name, self.text, status)
        if self.kind == _REASONING:
            return reasoning_item(self.id, self.text, status)
        return message_item(self.id, self.text, status, self.logprobs)

    @property
    def part(self) -> dict[str, Any]:
        """Its only part, if it is no call."""
        if self.kind == _REASONING:
            return {"type": "reasoning_text", "text": self.text}
        return {**output_text(self.text), "logprobs": self.logprobs}

    @property
    def place(self) -> dict[str, Any]:
        """Where its pieces go."""
        return {"item_id": self.id, "output_index": self.index, **({} if self.kind == _CALL else {"content_index": 0})}


_MESSAGE, _REASONING, _CALL = "output_text", "reasoning_text", "function_call_arguments"


class Output:
    """The output of a turn, in the order in which its items began."""

    def __init__(self, turn: TurnName) -> None:
        self._turn = turn
        self._items: dict[str, _Item] = {}

    def say(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Event]:
        """A piece of what is said."""
        yield from self._open(_MESSAGE, item_id(self._turn))
        item = self._items[_MESSAGE]
        item.logprobs += logprobs
        yield {**self._piece(item, text), "logprobs": list(logprobs)}

    def think(self, text: str) -> Iterator[Event]:
        """A piece of what is thought."""
        yield from self._open(_REASONING, reasoning_id(self._turn))
        yield self._piece(self._items[_REASONING], text)

    def call(self, piece: ToolCallDelta) -> Iterator[Event]:
        """A piece of a call."""
        key = f"{_CALL}{piece.index}"
        yield from self._open(_CALL, call_item_id(self._turn, piece.index), key, piece.id, piece.name)
        if piece.arguments:
            yield self._piece(self._items[key], piece.arguments)

    def close(self, status: str) -> Iterator[Event]:
        """The ends of all items; there is at least one, a message."""
        if not self._items:
            yield from self._open(_MESSAGE, item_id(self._turn))
        for item in self._items.values():
            if item.kind == _CALL:
                yield {"type": f"response.{_CALL}.done", **item.place, "name": item.name, "arguments": item.text}
            else:
                done = {"type": f"response.{item.kind}.done", **item.place, "text": item.text}
                yield {**done, "logprobs": item.logprobs} if item.kind == _MESSAGE else done
                yield {"type": "response.content_part.done", **item.place, "part": item.part}
            ended = item.as_it_is(status)
            yield {"type": "response.output_item.done", "output_index": item.index, "item": ended}

    def items(self, status: str) -> list[dict[str, Any]]:
        """All of them, as they are."""
        return [item.as_it_is(status) for item in self._items.values()]

    def _open(self, kind: str, name: str, key: str = "", call_id: str = "", tool: str = "") -> Iterator[Event]:
        key = key or kind
        if key in self._items:
            return
        item = self._items[key] = _Item(len(self._items), name, kind, call_id=call_id, name=tool)
        began = item.as_it_is("in_progress")
        began |= {"content": []} if kind != _CALL else {}
        yield {"type": "response.output_item.added", "output_index": item.index, "item": began}
        if kind != _CALL:
            yield {"type": "response.content_part.added", **item.place, "part": item.part}

    def _piece(self, item: _Item, text: str) -> Event:
        item.text += text
        return {"type": f"response.{item.kind}.delta", **item.place, "delta": text}


def item_id(turn: TurnName) -> str:
    """Of the message that a turn said."""
    return f"msg_{turn.session}_{turn.number}"


def reasoning_id(turn: TurnName) -> str:
    """Of what the model thought in a turn."""
    return f"rs_{turn.session}_{turn.number}"


def call_item_id(turn: TurnName, index: int) -> str:
    """Of a call in a turn."""
    return f"fc_{turn.session}_{turn.number}_{index}"


def message_item(name: str, text: str, status: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What the model said."""
    content = [{**output_text(text), "logprobs": list(logprobs)}]
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def reasoning_item(name: str, text: str, status: str) -> dict[str, Any]:
    """What the model thought."""
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(name: str, call_id: str, tool: str, arguments: str, status: str) -> dict[str, Any]:
    """What the model called."""
    call = {"call_id": call_id, "name": tool, "arguments": arguments}
    return {"id": name, "type": "function_call", **call, "status": status}


def output_text(text: str) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
