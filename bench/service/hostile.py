"""What one client that behaves has of a server beside a crowd that does not: a ratio, in one run.

    python bench/service/hostile.py [--turns 60] [--rounds 5]

The runtime has eight slots, an engine that costs nothing, and a builder on the same database. Beside the client are
eight readers that ask for 16,000 tokens and do not read, four that read a message now and then, one that sends turns of
4 MB which are too long, one that makes sessions of which nothing is kept, and one that submits builds. Time to the
first token, alone and among them: each round has a server of its own, first without the crowd and then with it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import grpc
from rich.console import Console

from bench.service.hostile_crowd import CROWD, READY
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

RUNTIME = Path(__file__).parents[1] / "engine" / "idle_engine.py"
MEMBERS = Path(__file__).parent / "hostile_crowd.py"
SLOTS = 8
GOAL_RATIO = 2.0


@dataclass(frozen=True)
class Figures:
    """Milliseconds to the first token of a turn."""

    alone_ms: float
    alone_p95_ms: float
    crowd_ms: float
    crowd_p95_ms: float
    ratio: float
    """Of the medians of a round; the median of rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60, help="that are timed in a round, alone and among the crowd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = summed_up([one_round(arguments.turns) for _ in range(arguments.rounds)])
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(figures)) + "\n")
        return
    say = Console().print
    say(f"alone: {figures.alone_ms:.1f} ms to the first token (95 %: {figures.alone_p95_ms:.1f})")
    say(f"beside {', '.join(CROWD)}: {figures.crowd_ms:.1f} ms (95 %: {figures.crowd_p95_ms:.1f})")
    say(f"ratio {figures.ratio:.2f}; goal: at most {GOAL_RATIO:g}")


def summed_up(rounds: list[tuple[list[float], list[float]]]) -> Figures:
    """Of all rounds, each of them the times alone and among the crowd."""
    alone, crowd = (sorted(itertools.chain(*times)) for times in zip(*rounds, strict=True))
    ratio = median(median(among) / median(by_itself) for by_itself, among in rounds)
    return Figures(median(alone), quantiles(alone, n=20)[-1], median(crowd), quantiles(crowd, n=20)[-1], ratio)


def one_round(turns: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token of each turn, alone and among the crowd."""
    with tempfile.TemporaryDirectory(prefix="sinkserve-hostile-") as home:
        return asyncio.run(measure(Path(home), turns))


async def measure(home: Path, turns: int) -> tuple[list[float], list[float]]:
    """The same client, first alone, then while the crowd is there."""
    with program(str(RUNTIME), str(home), str(SLOTS)) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            call = pb_grpc.ConversationServiceStub(channel).Converse()
            await call.write(pb.ConverseRequest(open=pb.Open(new_session=pb.NewSession(engine="idle"))))
            await call.read()
            await first_tokens_ms(call, 10)
            alone = await first_tokens_ms(call, turns)
            with program(str(MEMBERS), address, str(home)):
                crowd = await first_tokens_ms(call, turns)
            await call.done_writing()
    return alone, crowd


async def first_tokens_ms(
    call: grpc.aio.StreamStreamCall[pb.ConverseRequest, pb.ConverseResponse], turns: int
) -> list[float]:
    """Of each turn, from when it is asked to its first token."""
    found: list[float] = []
    for _ in range(turns):
        options = pb.GenerationOptions(max_new_tokens=8, ignore_eos=True)
        asked_at, first = time.perf_counter(), 0.0
        await call.write(pb.ConverseRequest(turn=pb.Turn(text="go", generation=options)))
        while isinstance(event := await call.read(), pb.ConverseResponse):
            if event.HasField("delta"):
                first = first or time.perf_counter()
            elif event.HasField("finished"):
                break
        found.append(1000 * (first - asked_at))
    return found


@contextmanager
def program(*words: str) -> Iterator[str]:
    """A process of this bench, and the line that it says, between its logs, when it is there. It ends when its input
    does.
    """
    command = [sys.executable, *words]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=where) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith(("127.", READY)):
            if not line:
                raise SystemExit(f"{words[0]} did not start")
        try:
            yield line.strip()
        finally:
            process.stdin.close()
            process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{words[0]} ended with status {process.returncode}")


if __name__ == "__main__":
    main()
