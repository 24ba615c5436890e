"""The demo: build the shipped model through the builder service, then talk to it far past its window.

Run by `make demo`. Both services run embedded, on free ports, with a home that is removed at the end. Exits 0 only
if the conversation did what the closing table says.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table

from common.rpc.wire import spec_to_wire
from common.spec.yaml_file import read_spec_file
from demo.dialogues import Turn, conversation
from demo.rtx import build_rtx
from sinkserve.cli.build.view import print_outcome, watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.cli.terminal.console import HarmlessConsole
from sinkserve.client import Client, Finished
from sinkserve.client import Conversation as Session

HERE = Path(__file__).resolve().parent
LEAST_TURNS = 100
LEAST_OVERFLOWS = 20
SHOWN = 10
"""Turns that are printed whole at the start and at the end."""
SEED = 51
"""Of the script: one in which nobody speaks of a dog."""
LEAST_RECALL = 0.8
RECALLED_PART = 8
"""Of the window one part in so many is read again for the last question."""
TOLD_FIRST = Turn("my dog is called Miso.", "I like the name Miso.", "tell")
ASKED_LAST = Turn("what is my dog called?", "Your dog is called Miso.", "recall")
MOST_GROWTH_MIB = 64


@dataclass(frozen=True)
class Exchange:
    """A turn as it went."""

    asked: Turn
    reply: str
    finished: Finished

    @property
    def right(self) -> bool:
        return self.reply.strip() == self.asked.assistant


@dataclass
class Story:
    """What happened."""

    window_tokens: int
    memory_at_start_mib: float
    exchanges: list[Exchange] = field(default_factory=list)
    told_first: Exchange | None = None
    asked_last: Exchange | None = None
    memory_at_end_mib: float = 0.0

    @property
    def position(self) -> int:
        return self.exchanges[-1].finished.usage.position if self.exchanges else 0

    @property
    def evicted(self) -> int:
        return sum(item.finished.usage.evicted_tokens for item in self.exchanges)

    @property
    def told_enough(self) -> bool:
        return len(self.exchanges) >= LEAST_TURNS and self.evicted >= LEAST_OVERFLOWS * self.window_tokens

    @property
    def windows_between(self) -> float:
        """How long ago the last question's answer was said, in windows."""
        if self.told_first is None or self.asked_last is None:
            return 0.0
        asked, told = (each.finished.usage.position for each in (self.asked_last, self.told_first))
        return (asked - told) / self.window_tokens

    def recalled(self) -> tuple[int, int]:
        """Right answers, and questions, about something said at most a window ago."""
        asked = [item for item in self.exchanges if item.asked.recall_distance is not None]
        return sum(item.right for item in asked), len(asked)

    def shortcomings(self) -> Iterator[str]:
        right, asked = self.recalled()
        if not self.told_enough:
            yield f"only {len(self.exchanges)} turns and {self.evicted} evicted tokens"
        if right < LEAST_RECALL * asked:
            yield f"only {right} of {asked} questions answered right; at least {LEAST_RECALL:.0%} were expected"
        if self.asked_last is None or not self.asked_last.right or self.windows_between < LEAST_OVERFLOWS:
            yield f"what was said {self.windows_between:.1f} windows before was not recalled"
        if self.memory_at_end_mib - self.memory_at_start_mib > MOST_GROWTH_MIB:
            yield f"memory grew by more than {MOST_GROWTH_MIB} MiB"
        if any(item.finished.reason.value != "stop" for item in self.exchanges):
            yield "a turn did not end by itself"


async def main() -> int:
    console = HarmlessConsole(highlight=False)
    with tempfile.TemporaryDirectory(prefix="sinkserve-demo-") as home:
        own_settings(home)
        with embedded_services(HERE) as addresses:
            async with Client(addresses.runtime, addresses.builder, runtime_admin=addresses.runtime_admin) as client:
                engine, window = await build(client, console)
                await build_rtx(client, console)
                story = await talk(client, engine, window, console)
    show(story, console)
    shortcomings = list(story.shortcomings())
    for shortcoming in shortcomings:
        console.print(f"[red]The demo fell short:[/] {shortcoming}")
    return 1 if shortcomings else 0


def own_settings(home: str) -> None:
    """Settings of the services that the demo starts: the defaults and a home of their own, whatever a user has set."""
    for name in [name for name in os.environ if name.startswith("SINKSERVE_")]:
        del os.environ[name]
    os.environ["SINKSERVE_HOME"] = home


async def build(client: Client, console: Console) -> tuple[str, int]:
    """Build the demo engine; returns its reference and its window."""
    spec = read_spec_file(HERE / "spec.yaml")
    cache = spec.cache
    console.print(f"[bold]Building[/] demo/spec.yaml: {cache.sink_tokens} sinks + a window of {cache.window_tokens}")
    submitted = await client.builds.submit(spec_to_wire(spec))
    done = await watch(client, submitted.name)
    print_outcome(done, next_command=False)
    await client.engines.load(done.engine)
    return done.engine, cache.window_tokens


async def talk(client: Client, engine: str, window: int, console: Console) -> Story:
    """Hold the scripted conversation until it has overflowed the window often enough, then a little longer."""
    console.print(f"\n[bold]Talking[/] to {engine}, until the window has overflowed {LEAST_OVERFLOWS} times\n")
    script = conversation(random.Random(SEED), noise=0)
    story = Story(window, _memory_mib())
    async with client.conversation(engine, recall_tokens=window // RECALLED_PART) as session:
        story.told_first = await exchange(session, TOLD_FIRST, console)
        for _ in range(SHOWN):
            story.exchanges.append(await exchange(session, next(script), console))
        with console.status("") as status:
            while not story.told_enough:
                story.exchanges.append(await exchange(session, next(script), None))
                status.update(f"turn {len(story.exchanges)}, position {story.position}, {story.evicted} tokens evicted")
        console.print(f"[dim]… {len(story.exchanges) - SHOWN} turns later, {story.evicted} tokens evicted …[/]\n")
        for _ in range(SHOWN):
            story.exchanges.append(await exchange(session, next(script), console))
        asked_last = replace(ASKED_LAST, recall_distance=len(story.exchanges) + 1)
        story.asked_last = await exchange(session, asked_last, console, recalls=True)
    story.memory_at_end_mib = _memory_mib()
    return story


async def exchange(session: Session, asked: Turn, console: Console | None, *, recalls: bool = False) -> Exchange:
    """One turn, printed as it streams where there is a console; one that `recalls` reads again what fits it."""
    budget = None if recalls else 0
    turn = await session.say(asked.user, temperature=0.0, max_new_tokens=40, recall_tokens=budget)
    if console is not None:
        console.print(f"[cyan]you  [/] {asked.user}\n[green]model[/] ", end="")
        async for delta in turn:
            console.print(delta.text, end="", markup=False)
    finished = await turn.wait()
    done = Exchange(asked, turn.text, finished)
    if console is not None:
        console.print(_verdict(done))
    return done


def _verdict(done: Exchange) -> str:
    distance = done.asked.recall_distance
    recall = f", said {distance} turns ago: {'right' if done.right else 'wrong'}" if distance is not None else ""
    return f"  [dim](position {done.finished.usage.position}{recall})[/]\n"


def show(story: Story, console: Console) -> None:
    """The closing table, and what to type next."""
    right, asked = story.recalled()
    first, last = story.exchanges[:10], story.exchanges[-10:]
    table = Table("", "first ten turns", "last ten turns", title="What happened", title_justify="left")
    table.add_row("time to first token", *(f"{_first_token_ms(part):.1f} ms" for part in (first, last)))
    table.add_row("tokens a second", *(f"{_tokens_per_second(part):.0f}" for part in (first, last)))
    table.add_row("memory", f"{story.memory_at_start_mib:.0f} MiB", f"{story.memory_at_end_mib:.0f} MiB")
    table.add_section()
    table.add_row("turns", "", str(len(story.exchanges)))
    table.add_row("position", "", f"{story.position} tokens")
    table.add_row("evicted", "", f"{story.evicted} tokens, {story.evicted / story.window_tokens:.1f} windows")
    table.add_row("recall inside the window", "", f"{right} of {asked}")
    if story.asked_last is not None:
        table.add_row(f"recall from {story.windows_between:.1f} windows ago", "", _recalled(story.asked_last))
    console.print(table)
    console.print(NEXT, markup=False, soft_wrap=True)


NEXT = """
Next:
  .venv/bin/sinkserve run demo/model          one command: build if needed, then chat
  .venv/bin/sinkserve serve                   both services; then, in another terminal:
  .venv/bin/sinkserve build demo/spec.yaml
  .venv/bin/sinkserve chat demo
"""


def _recalled(asked: Exchange) -> str:
    tokens = asked.finished.usage.recalled_tokens
    return f"{'right' if asked.right else 'wrong'}, {tokens} tokens read again"


def _first_token_ms(part: list[Exchange]) -> float:
    return 1000 * median(item.finished.timing.time_to_first_token_s for item in part)


def _tokens_per_second(part: list[Exchange]) -> float:
    return median(item.finished.tokens_per_second for item in part)


def _memory_mib() -> float:
    """Memory of the services, which are the children of this process."""
    children = psutil.Process().children(recursive=True)
    return sum(child.memory_info().rss for child in children) / 2**20


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
