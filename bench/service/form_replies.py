"""Replies by JSON schemas at temperature 1: how many of them are whole, and how many of those match (all have to).

    python bench/service/form_replies.py SOURCE [--precision int8] [--tries 200] [--json]

SOURCE is a checkpoint folder or a GGUF file; it is built into a home that is removed at the end. Tries of one
schema run 8 at a time, each in a session of its own with a seed of its own. Exits 1 unless every reply is whole, is
JSON, and is valid by the jsonschema package.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
from rich.console import Console
from rich.table import Table

from common.rpc.wire import spec_to_wire
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source
from demo.chat import own_settings
from sinkserve.cli.build.view import print_outcome, watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.cli.terminal.console import HarmlessConsole
from sinkserve.client import Client, ResponseFormat

SLOTS = 8
NAME = "forms"
CACHE = CacheGeometry(sink_tokens=4, window_tokens=252, chunk_tokens=64, max_slots=SLOTS)
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "a cat": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
            "colour": {"enum": ["black", "white", "ginger"]},
        },
        "required": ["name", "age", "colour"],
        "additionalProperties": False,
    },
    "a list of tasks": {
        "type": "array",
        "items": {"$ref": "#/$defs/task"},
        "minItems": 1,
        "maxItems": 3,
        "$defs": {
            "task": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "minLength": 1, "maxLength": 24},
                    "done": {"type": "boolean"},
                    "due": {"type": ["string", "null"], "format": "date"},
                    "cost": {"type": "number", "minimum": 0, "maximum": 99.5},
                    "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,8}$"}, "maxItems": 2},
                },
                "required": ["title", "done", "due"],
                "additionalProperties": False,
            }
        },
    },
}
ASKED = "Tell me about {}, as JSON."


@dataclass
class Row:
    """What became of the tries of one schema."""

    schema: str
    tries: int = 0
    whole: int = 0
    valid: int = 0
    tokens: int = 0
    distinct: int = 0


async def main() -> int:
    arguments = parse()
    console = HarmlessConsole(highlight=False)
    async with built(arguments.source, arguments.precision) as client:
        rows = [await ask(client, name, arguments.tries) for name in SCHEMAS]
    show(rows, console, as_json=arguments.json)
    return 0 if all(row.valid == row.whole == row.tries for row in rows) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=lambda text: Path(text).resolve())
    parser.add_argument("--precision", type=Precision, default=Precision.INT8)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@asynccontextmanager
async def built(source: Path, precision: Precision) -> AsyncIterator[Client]:
    """A client of services in a home of their own, which have built the model as `NAME`."""
    spec = ModelSpec(name=NAME, source=Source(uri=str(source)), precision=precision, cache=CACHE)
    with tempfile.TemporaryDirectory() as home:
        own_settings(home)
        with embedded_services(source.parent) as addresses:
            async with Client(addresses.runtime, addresses.builder) as client:
                build = await client.builds.submit(spec_to_wire(spec))
                print_outcome(await watch(client, build.name), next_command=False)
                yield client


async def ask(client: Client, name: str, tries: int) -> Row:
    row, room, texts = Row(name), asyncio.Semaphore(SLOTS), set[str]()

    async def one(seed: int) -> None:
        async with room, client.conversation(NAME) as conversation:
            form = ResponseFormat(json_schema=SCHEMAS[name])
            said = await conversation.say(
                ASKED.format(name), temperature=1.0, seed=seed, max_new_tokens=1000, response_format=form
            )
            finished = await said.wait()
        row.tries += 1
        row.whole += bool(finished.format_matched)
        row.tokens += finished.usage.generated_tokens
        texts.add(said.text)
        if not is_valid(said.text, SCHEMAS[name]):
            sys.stderr.write(f"not valid: {said.text}\n")
            return
        row.valid += 1

    await asyncio.gather(*(one(seed) for seed in range(tries)))
    row.distinct = len(texts)
    return row


FORMATS = jsonschema.FormatChecker()


@FORMATS.checks("date", raises=ValueError)
def is_date(value: object) -> bool:
    """As RFC 3339 has it, where years begin with 0000: a leap year, which Python's dates do not know."""
    return not isinstance(value, str) or bool(date.fromisoformat(value.replace("0000-", "2000-", 1)))


def is_valid(text: str, schema: Mapping[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema, format_checker=FORMATS)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def show(rows: list[Row], console: Console, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    table = Table("schema", "tries", "whole", "valid", "tokens each", "distinct")
    for row in rows:
        table.add_row(row.schema, *map(str, (row.tries, row.whole, row.valid, row.tokens // row.tries, row.distinct)))
    console.print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
