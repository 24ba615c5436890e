"""Many sessions on few slots: do all answer, how long until the first token by where a cache was, and what memory?

    python bench/service/held_sessions.py [--sessions 1000] [--spec demo/spec.yaml]

The runtime is a process of its own. Every session fills its window. Budgets hold nearly a quarter of the caches in host
memory and as many on the local disk; of the others, the older half, every second has a snapshot. Then all are spoken
to one by one, the newest first, so that each is found where it was; then all at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import psutil
from rich.console import Console
from rich.table import Table

from common.rpc.wire import spec_to_wire
from common.spec.model_spec import ModelSpec
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.build.view import watch
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, SessionOptions
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.fleet import Executed, Replica, addresses

AT_ONCE = 16
REPLY = 8
SHARE = 0.24
_KINDS = {
    (pb.Session.STATE_RESIDENT, False): "in a slot",
    (pb.Session.STATE_PARKED, False): "host memory",
    (pb.Session.STATE_STORED, True): "tokens (replay)",
}


@dataclass
class Times:
    """Milliseconds until a session was open, and from its turn to the first token."""

    open_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


@dataclass
class Held:
    """The sessions, and what is measured of them."""

    client: Client
    engine: str
    count: int
    fill: int
    times: dict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    answered: int = 0

    async def fill_all(self) -> None:
        """Every session has a full window."""
        for begin in range(0, self.count, AT_ONCE):
            await asyncio.gather(*(self._fill(number) for number in range(begin, min(begin + AT_ONCE, self.count))))

    async def ask_each(self) -> None:
        """One by one, the newest first."""
        for number in reversed(range(self.count)):
            await self._ask(number)

    async def ask_all(self) -> float:
        """All at once; returns the seconds until the last had its answer."""
        began = time.monotonic()
        await asyncio.gather(*(self._say(number, 8) for number in range(self.count)))
        return time.monotonic() - began

    async def _fill(self, number: int) -> None:
        options = SessionOptions(durability="tokens_and_kv" if self._has_snapshot(number) else "tokens")
        async with self.client.conversation(self.engine, session_id=f"held-{number}", **options) as conversation:
            for _ in range(2):
                turn = await conversation.send(token_ids=_tokens(number, self.fill // 2), max_new_tokens=REPLY)
                await turn.wait()

    async def _ask(self, number: int) -> None:
        before = await self.client.sessions.get(f"sessions/held-{number}")
        began = time.monotonic()
        async with self.client.conversation(session=f"held-{number}") as conversation:
            opened = time.monotonic()
            times = self.times[self._kind(number, before.state, recomputed=conversation.opened.kv_recomputed)]
            turn = await conversation.send(token_ids=_tokens(number, 8), max_new_tokens=REPLY)
            async for _ in turn:
                times.first_ms.append(1000 * (time.monotonic() - opened))
                break
            await turn.wait()
        times.open_ms.append(1000 * (opened - began))
        self.answered += 1

    async def _say(self, number: int, count: int) -> None:
        async with self.client.conversation(session=f"held-{number}") as conversation:
            await (await conversation.send(token_ids=_tokens(number, count), max_new_tokens=REPLY)).wait()
        self.answered += 1

    def _kind(self, number: int, state: pb.Session.State.ValueType, *, recomputed: bool) -> str:
        if (state, recomputed) in _KINDS:
            return _KINDS[state, recomputed]
        return "snapshot" if self._has_snapshot(number) else "local file"

    def _has_snapshot(self, number: int) -> bool:
        return number < self.count // 2 and number % 2 == 0


async def main() -> None:
    arguments = _arguments()
    spec = read_spec_file(arguments.spec)
    with tempfile.TemporaryDirectory(prefix="sinkserve-held-") as home:
        os.environ["SINKSERVE_HOME"] = home
        engine, state_bytes = await _build(spec)
        budget = int(SHARE * arguments.sessions) * state_bytes
        replica = _replica(Path(home), engine, budget, arguments.sessions)
        async with _serving(replica):
            empty = _memory(replica)
            async with Client(replica.address, "127.0.0.1:1") as client:
                held = Held(client, engine, arguments.sessions, spec.cache.window_tokens)
                await held.fill_all()
                full = _memory(replica)
                await held.ask_each()
                together_s = await held.ask_all()
                most = _memory(replica)
    _show(held, together_s, budget, (empty, full, most))


async def _build(spec: ModelSpec) -> tuple[str, int]:
    """The engine's name, and the bytes of a full cache."""
    with embedded_services(Path(spec.source.uri)) as found:
        async with Client(found.runtime, found.builder) as client:
            build = await watch(client, (await client.builds.submit(spec_to_wire(spec))).name)
            engine = await client.engines.get(build.engine)
    geometry = spec.geometry
    seen = geometry.sinks + geometry.window
    return build.engine, engine.manifest.kv_bytes_per_slot * seen // geometry.rows


def _replica(home: Path, engine: str, budget: int, sessions: int) -> Replica:
    settings = {
        "SINKSERVE_HOME": str(home),
        "SINKSERVE_RUNTIME_ENGINES": engine,
        "SINKSERVE_RUNTIME_PARKED_BYTES": str(budget),
        "SINKSERVE_RUNTIME_PARKED_FILE_BYTES": str(budget),
        "SINKSERVE_RUNTIME_SNAPSHOT_TURNS": "2",
        "SINKSERVE_RUNTIME_MAX_SESSIONS": str(sessions),
    }
    return Replica(home / "replica", addresses(1)[0], settings, Executed)


@asynccontextmanager
async def _serving(replica: Replica) -> AsyncIterator[None]:
    replica.start()
    await replica.ready()
    try:
        yield
    finally:
        await replica.stop()


def _memory(replica: Replica) -> int:
    return int(psutil.Process(replica.process_id).memory_info().rss)


def _tokens(number: int, count: int) -> list[int]:
    return [5 + (number * 31 + index * 7) % 900 for index in range(count)]


def _show(held: Held, together_s: float, budget: int, memory: tuple[int, int, int]) -> None:
    console = Console()
    table = Table("where the cache was", "sessions", "ms to open", "ms to first token", "95th percentile")
    for kind, times in sorted(held.times.items(), key=lambda item: median(item[1].first_ms)):
        slow = quantiles(times.first_ms, n=20)[-1] if len(times.first_ms) > 1 else times.first_ms[0]
        figures = f"{median(times.open_ms):.1f}", f"{median(times.first_ms):.1f}", f"{slow:.1f}"
        table.add_row(kind, str(len(times.first_ms)), *figures)
    console.print(table)
    console.print(f"{held.answered:,} answers; all {held.count:,} at once: {together_s:.1f} s until the last")
    empty, full, most = (round(size / 2**20) for size in memory)
    console.print(
        f"memory of the process: {empty} MiB with the engine loaded, {full} MiB when all were full, {most} MiB at the "
        f"end; budget of caches in host memory {budget / 2**20:.0f} MiB"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--spec", type=Path, default=Path(__file__).resolve().parents[2] / "demo" / "spec.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
