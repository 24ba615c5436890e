"""Forced calls of tools at temperature 1, and what comes after their results: all calls have to be whole and fit.

    python bench/service/tool_calls.py SOURCE [--precision int8] [--tries 200] [--json]

SOURCE is a checkpoint folder or a GGUF file; it is built into a home that is removed at the end. A try is a session: a
turn that has to call, and one that is given the results and may call again. Half of the tries have to call one tool,
half of them any. Exits 1 unless every call is whole and valid by the jsonschema package, its pieces are what the end
of the turn says, and every answer ends in good order.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.service.form_replies import NAME, SLOTS, built, is_valid, parse
from sinkserve.cli.terminal.console import HarmlessConsole
from sinkserve.client import Client, FinishReason, Tool, Turn

TOOLS: tuple[Tool, ...] = (
    {
        "name": "weather",
        "description": "How it is outside.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "minLength": 1, "maxLength": 24},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town"],
            "additionalProperties": False,
        },
    },
    {
        "name": "book_table",
        "description": "Books a table.",
        "parameters": {
            "type": "object",
            "properties": {
                "day": {"type": "string", "format": "date"},
                "guests": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 1, "maxItems": 3},
                "outside": {"type": "boolean"},
            },
            "required": ["day", "guests"],
            "additionalProperties": False,
        },
    },
)
SCHEMAS: Mapping[str, Mapping[str, Any]] = {tool["name"]: tool["parameters"] for tool in TOOLS}
CHOICES = ("weather", "required")
IN_ORDER = {FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS}


@dataclass
class Row:
    """What became of the tries of one choice. `whole` and `valid` are turns all of whose calls are."""

    choice: str
    tries: int = 0
    calls: int = 0
    whole: int = 0
    valid: int = 0
    answered: int = 0
    tokens: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return self.tries == self.whole == self.valid == self.answered


async def main() -> int:
    arguments = parse()
    console = HarmlessConsole(highlight=False)
    async with built(arguments.source, arguments.precision) as client:
        rows = [await ask(client, choice, arguments.tries // len(CHOICES)) for choice in CHOICES]
    show(rows, console, as_json=arguments.json)
    return 0 if all(row.is_good for row in rows) else 1


async def ask(client: Client, choice: str, tries: int) -> Row:
    row, room = Row(choice), asyncio.Semaphore(SLOTS)

    async def one(seed: int) -> None:
        async with room, client.conversation(NAME, tools=TOOLS) as conversation:
            called = await conversation.say(
                "Help me.", tool_choice=choice, temperature=1.0, seed=seed, max_new_tokens=1000
            )
            await note(row, called)
            results = {call.id: '{"done": true}' for call in called.tool_calls}
            answer = await conversation.answer(
                called, results, allow_eviction_within_turn=True, temperature=1.0, seed=seed, max_new_tokens=16
            )
            reason = (await answer.wait()).reason
            row.answered += reason in IN_ORDER

    await asyncio.gather(*(one(seed) for seed in range(tries)))
    return row


async def note(row: Row, turn: Turn) -> None:
    """Read a turn that has to call, and count what it is."""
    pieces: dict[int, str] = {}
    async for delta in turn:
        for piece in delta.tool_calls:
            pieces[piece.index] = pieces.get(piece.index, "") + piece.arguments
    finished = await turn.wait()
    calls = turn.tool_calls
    row.tries += 1
    row.calls += len(calls)
    row.tokens += finished.usage.generated_tokens
    row.whole += finished.reason is FinishReason.TOOL_CALLS and not any(call.incomplete for call in calls)
    told = list(pieces.values()) == [call.arguments for call in calls]
    row.valid += told and all(is_valid(call.arguments, SCHEMAS[call.name]) for call in calls)


def show(rows: list[Row], console: Console, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    table = Table("tool_choice", "tries", "calls", "whole", "valid", "answered", "tokens each")
    for row in rows:
        counts = (row.tries, row.calls, row.whole, row.valid, row.answered, row.tokens // row.tries)
        table.add_row(row.choice, *map(str, counts))
    console.print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
