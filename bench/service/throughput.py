"""What the service itself takes: a runtime over an engine that costs nothing, and clients in another process.

    python bench/service/throughput.py [--conversations 32] [--tokens 2000] [--profile FILE]

Tokens a second over all conversations; at one conversation, the time between two tokens; how long the first takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

RUNTIME = Path(__file__).parents[1] / "engine" / "idle_engine.py"
GOAL_TOKENS_S, GOAL_TOKEN_MS = 25_000, 1.0


@dataclass(frozen=True)
class Figures:
    """Of one number of conversations."""

    conversations: int
    tokens_per_second: float
    token_ms: float
    """Median time from a token to the next one of the same reply, over all."""
    first_token_ms: float
    messages_per_token: float
    cpu_us_per_token: float
    """What the runtime's process takes, which other load on the machine changes little."""


@dataclass(frozen=True)
class Heard:
    """One reply: when each message came, and with how many tokens."""

    asked_at: float
    pieces: list[tuple[float, int]]

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.pieces)


def main() -> None:
    arguments = parse()
    with runtime(arguments.conversations, arguments.profile) as (address, process):
        alone, all_of_them = asyncio.run(measure(address, process, arguments.conversations, arguments.tokens))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(alone), asdict(all_of_them)]) + "\n")
    else:
        print_table(alone, all_of_them)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2000, help="of each reply")
    parser.add_argument("--profile", help="write a profile of the runtime here, for snakeviz and the like")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def runtime(slots: int, profile: str | None) -> Iterator[tuple[str, psutil.Process]]:
    """A runtime process, and its address."""
    how = ["-m", "cProfile", "-o", profile] if profile else []
    with tempfile.TemporaryDirectory(prefix="sinkserve-service-") as home:
        command = [sys.executable, *how, str(RUNTIME), home, str(slots)]
        pipe, log = subprocess.PIPE, Path(home) / "log"
        with (
            log.open("w") as said,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("127."):
                if not line:
                    raise SystemExit(f"the runtime did not start: {log.read_text()}")
            yield line.strip(), psutil.Process(process.pid)
            process.stdin.close()
            process.stdout.read()


async def measure(address: str, process: psutil.Process, conversations: int, tokens: int) -> tuple[Figures, Figures]:
    """One conversation, then all of them at once."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: pb_grpc.ConversationServiceAsyncStub = pb_grpc.ConversationServiceStub(channel)
        await talk(stub, 100)
        alone = await together(stub, process, 1, tokens)
        return alone, await together(stub, process, conversations, tokens)


async def together(
    stub: pb_grpc.ConversationServiceAsyncStub, process: psutil.Process, conversations: int, tokens: int
) -> Figures:
    began, spent = time.perf_counter(), cpu_s(process)
    heard = await asyncio.gather(*(talk(stub, tokens) for _ in range(conversations)))
    seconds = time.perf_counter() - began
    total = sum(each.tokens for each in heard)
    assert total == conversations * tokens, (total, conversations, tokens)
    return Figures(
        conversations,
        total / seconds,
        1000 * median(gap for each in heard for gap in gaps(each)),
        1000 * median(each.pieces[0][0] - each.asked_at for each in heard),
        sum(len(each.pieces) for each in heard) / total,
        1e6 * (cpu_s(process) - spent) / total,
    )


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def gaps(heard: Heard) -> Iterator[float]:
    """Seconds for each token after the first: those that come together share what their message took."""
    for (before, _), (after, count) in zip(heard.pieces, heard.pieces[1:], strict=False):
        yield from [(after - before) / count] * count


async def talk(stub: pb_grpc.ConversationServiceAsyncStub, tokens: int) -> Heard:
    """A session with one long reply."""
    call = stub.Converse()
    await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="idle"))))
    await call.read()
    options = pb.GenerationOptions(max_new_tokens=tokens, ignore_eos=True, temperature=0)
    asked_at = time.perf_counter()
    await call.write(pb.ConverseRequest(turn=pb.Turn(text="go", generation=options)))
    pieces: list[tuple[float, int]] = []
    while isinstance(event := await call.read(), pb.ConverseResponse):
        if event.HasField("delta"):
            pieces.append((time.perf_counter(), len(event.delta.token_ids)))
        elif event.HasField("finished"):
            break
    await call.done_writing()
    return Heard(asked_at, pieces)


def print_table(*figures: Figures) -> None:
    heads = ("conversations", "tokens/s", "ms a token", "ms to the first", "messages a token", "CPU µs a token")
    table = Table(*heads, title="The service alone")
    for each in figures:
        table.add_row(
            f"{each.conversations}",
            f"{each.tokens_per_second:,.0f}",
            f"{each.token_ms:.3f}",
            f"{each.first_token_ms:.1f}",
            f"{each.messages_per_token:.2f}",
            f"{each.cpu_us_per_token:.1f}",
        )
    Console().print(table)
    Console().print(f"goals: {GOAL_TOKENS_S:,} tokens/s over 32 conversations, {GOAL_TOKEN_MS:g} ms a token at one")


if __name__ == "__main__":
    main()
