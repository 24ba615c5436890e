"""Tokens a second and memory of a served engine, over gRPC: one conversation, then as many as there are slots.

    python bench/service/serving.py SPEC.yaml [--set precision=int8] [--tokens 64]

Both services run embedded with a home of their own. Windows are filled first, so that figures are those of a
conversation that has gone on for long. Decoding is counted between the first token of a reply and its last.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from common.rpc.wire import spec_to_wire
from common.spec.model_spec import ModelSpec
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.view import watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, Conversation, Finished


async def main() -> int:
    arguments = _arguments()
    spec = read_spec_file(arguments.spec, dict(pair.split("=", 1) for pair in arguments.set))
    console = Console()
    with tempfile.TemporaryDirectory(prefix="sinkserve-serving-") as home:
        os.environ["SINKSERVE_HOME"] = home
        with embedded_services(Path(spec.source.uri)) as addresses:
            async with Client(addresses.runtime, addresses.builder, runtime_admin=addresses.runtime_admin) as client:
                began = time.monotonic()
                build = await watch(client, (await client.builds.submit(spec_to_wire(spec))).name)
                console.print(f"built {build.engine} in {time.monotonic() - began:.0f} s", build.error.message)
                await client.engines.load(build.engine)
                await measure(client, build.engine, spec, arguments.tokens, console)
    return 0


async def measure(client: Client, engine: str, spec: ModelSpec, tokens: int, console: Console) -> None:
    """Fill all windows, then decode with one conversation and with all, and print the table."""
    cache = spec.cache
    memory = _memory_mib()
    conversations = [client.conversation(engine) for _ in range(cache.max_slots)]
    await asyncio.gather(*(item.open() for item in conversations))
    fill = cache.sink_tokens + cache.window_tokens
    filled = [await _turn(item, min(fill, cache.window_tokens), 1) for item in conversations]
    prefill = sum(turn.usage.prompt_tokens for turn in filled) / sum(turn.timing.prefill_s for turn in filled)
    table = Table(
        "conversations", "tokens/s, all together", "ms a token", "ms to first token", title=f"{spec.precision}"
    )
    for count in (1, cache.max_slots):
        turns = await asyncio.gather(*(_turn(item, 8, tokens) for item in conversations[:count]))
        decode_s = max(turn.timing.decode_s for turn in turns)
        first = max(turn.timing.time_to_first_token_s for turn in turns)
        rate = count * (tokens - 1) / decode_s
        table.add_row(str(count), f"{rate:.1f}", f"{1000 * decode_s / (tokens - 1):.1f}", f"{1000 * first:.0f}")
    console.print(table)
    console.print(
        f"prefill {prefill:.0f} tokens/s; memory of the services {memory:.0f} MiB with the engine loaded, "
        f"{_memory_mib():.0f} MiB with {cache.max_slots} full windows of {cache.window_tokens}"
    )
    for item in conversations:
        await item.close(delete=True)


async def _turn(conversation: Conversation, input_tokens: int, new_tokens: int) -> Finished:
    ids = [5 + i % 200 for i in range(input_tokens)]
    turn = await conversation.send(token_ids=ids, max_new_tokens=new_tokens, ignore_eos=True, temperature=0.0)
    return await turn.wait()


def _memory_mib() -> float:
    """Memory of the services, which are the children of this process."""
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True)) / 2**20


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
