"""One conversation far past its window: does a turn cost at position 200,000 what it cost at 2,000?

    python bench/service/soak.py [--position 200000] [--spec demo/spec.yaml]

Both services run embedded with a home of their own. Every turn feeds the same number of tokens and generates the
same number; the table shows medians over blocks of turns. Machines change their speed within minutes, so at the end
the long conversation and a young one take turns, and the last line is the ratio of their medians. Prints JSON with
--json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table

from common.rpc.wire import spec_to_wire
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.view import watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, Conversation, Finished

INPUT_TOKENS = 24
NEW_TOKENS = 16
BLOCKS = 10
YOUNG = 2_000
PAIRS = 200


@dataclass(frozen=True)
class Block:
    """Medians over a run of turns, and the process after it."""

    position: int
    turns: int
    turn_ms: float
    first_token_ms: float
    token_ms: float
    memory_mib: float
    database_bytes_per_turn: float


async def main() -> int:
    arguments = _arguments()
    console = Console(stderr=arguments.json)
    with tempfile.TemporaryDirectory(prefix="sinkserve-soak-") as home:
        os.environ["SINKSERVE_HOME"] = home
        with embedded_services(arguments.spec.resolve().parent) as addresses:
            async with Client(addresses.runtime, addresses.builder) as client:
                submitted = await client.builds.submit(spec_to_wire(read_spec_file(arguments.spec)))
                build = await watch(client, submitted.name)
                async with client.conversation(build.engine) as old, client.conversation(build.engine) as young:
                    blocks = await soak(old, arguments.position, Path(home) / "sinkserve.db", console)
                    old_ms, young_ms = await compare(old, young)
    if arguments.json:
        print(json.dumps({"blocks": [asdict(block) for block in blocks], "old_ms": old_ms, "young_ms": young_ms}))
    show(blocks, console)
    console.print(
        f"turn by turn: {old_ms:.1f} ms at position {arguments.position}, {young_ms:.1f} ms at {YOUNG}, "
        f"{old_ms / young_ms:.3f} times as long"
    )
    return 0


async def soak(conversation: Conversation, position: int, database: Path, console: Console) -> list[Block]:
    """Talk until `position`, measured in blocks; the first, short one warms up and ends at 2,000."""
    edges = [YOUNG, *(YOUNG + (position - YOUNG) * (i + 1) // BLOCKS for i in range(BLOCKS))]
    blocks = []
    for edge in edges:
        blocks.append(await _block(conversation, edge, database))
        console.print(f"[dim]position {blocks[-1].position}: {blocks[-1].turn_ms:.1f} ms a turn[/]")
    return blocks


async def compare(old: Conversation, young: Conversation) -> tuple[float, float]:
    """Median milliseconds of a turn of each, the two in turn, the young one from position 2,000 on."""
    while (await _turn(young)).usage.position < YOUNG:
        pass
    pairs = [(_turn_s(await _turn(old)), _turn_s(await _turn(young))) for _ in range(PAIRS)]
    return 1000 * median(pair[0] for pair in pairs), 1000 * median(pair[1] for pair in pairs)


async def _block(conversation: Conversation, edge: int, database: Path) -> Block:
    before = _bytes(database)
    turns = [await _turn(conversation)]
    while turns[-1].usage.position < edge:
        turns.append(await _turn(conversation))
    return Block(
        position=turns[-1].usage.position,
        turns=len(turns),
        turn_ms=1000 * median(_turn_s(turn) for turn in turns),
        first_token_ms=1000 * median(turn.timing.time_to_first_token_s for turn in turns),
        token_ms=1000 * median(turn.timing.decode_s for turn in turns) / (NEW_TOKENS - 1),
        memory_mib=_memory_mib(),
        database_bytes_per_turn=(_bytes(database) - before) / len(turns),
    )


async def _turn(conversation: Conversation) -> Finished:
    token_ids = [5 + i for i in range(INPUT_TOKENS)]
    turn = await conversation.send(token_ids=token_ids, max_new_tokens=NEW_TOKENS, ignore_eos=True, temperature=0.0)
    return await turn.wait()


def _turn_s(finished: Finished) -> float:
    return finished.timing.time_to_first_token_s + finished.timing.decode_s


def _memory_mib() -> float:
    """Memory of the services, which are the children of this process."""
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True)) / 2**20


def _bytes(database: Path) -> int:
    return sum(path.stat().st_size for path in database.parent.glob(database.name + "*"))


def show(blocks: list[Block], console: Console) -> None:
    """The table, and how memory changed after the first full block."""
    table = Table("position", "turns", "ms a turn", "ms to first token", "ms a token", "MiB", "database bytes a turn")
    for block in blocks:
        figures = (block.turn_ms, block.first_token_ms, block.token_ms, block.memory_mib, block.database_bytes_per_turn)
        table.add_row(str(block.position), str(block.turns), *(f"{figure:.1f}" for figure in figures))
    console.print(table)
    first, last = blocks[1], blocks[-1]
    console.print(
        f"memory: {last.memory_mib - first.memory_mib:+.1f} MiB from position {first.position} to {last.position}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--position", type=int, default=200_000)
    parser.add_argument("--spec", type=Path, default=Path(__file__).resolve().parents[2] / "demo" / "spec.yaml")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
