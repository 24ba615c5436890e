"""What the door for HTTP adds to a token: the same turns over gRPC and through it, by turns, in one run.

    python bench/door/cost.py [--streams 1 8 64] [--tokens 200] [--rounds 5] [--step-ms 5] [--json]

A runtime over a fake engine whose step takes `--step-ms`, a door (`sinkserve web`), and a client, each in a process of
its own. Each round the client makes `--streams` turns at once: by the SDK (gRPC), then as responses and as chat
completions through the door, read as lines. Told are medians over rounds of milliseconds a token and to the first
one, and processor time of the door a token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil
from rich.console import Console
from rich.table import Table

from common.telemetry import configure_logging
from common.window import Geometry
from sinkserve.client import Client
from tests.environment import isolate
from tests.service.runtime import runtime as fake
from tests.service.runtime.runtime import Bench

NOBODY = "127.0.0.1:1"
UNBOUNDED = httpx2.Limits(max_connections=None)
WAYS = ("grpc", "responses", "chat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--talk", nargs=4, metavar=("WAY", "ADDRESS", "STREAMS", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.talk:
        way, address, streams, tokens = args.talk
        print(json.dumps(asyncio.run(talk(way, address, int(streams), int(tokens)))))
        return
    isolate()
    rows = asyncio.run(measure(args))
    print(json.dumps(rows)) if args.json else show(rows)


async def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way and number of streams."""
    configure_logging(level=logging.WARNING)
    fake.STEP_S = args.step_ms / 1000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        geometry = Geometry(sinks=4, window=64, chunk=8, slots=max(args.streams))
        bench = Bench(Path(folder), {"max_sessions": 1000}, geometry=geometry)
        bench.publish()
        await bench.start()
        try:
            async with door(bench.handle.address) as (process, url):
                for streams in args.streams:
                    rows += await rounds(args, bench.handle.address, url, process, streams)
        finally:
            await bench.stop()
    return rows


async def rounds(
    args: argparse.Namespace, runtime: str, url: str, process: psutil.Process, streams: int
) -> list[dict[str, Any]]:
    """All ways by turns, after one of each that nobody counts."""
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(args.rounds + 1):
        for way in WAYS:
            before = sum(process.cpu_times()[:2])
            told = await child(way, runtime if way == "grpc" else url, streams, args.tokens)
            told["door_cpu_ms"] = 1000 * (sum(process.cpu_times()[:2]) - before) / told.pop("tokens")
            if number:
                seen[way].append(told)
    return [
        {"streams": streams, "way": way, **{name: median(each[name] for each in told) for name in told[0]}}
        for way, told in seen.items()
    ]


async def child(way: str, address: str, streams: int, tokens: int) -> dict[str, float]:
    """What a client in a process of its own saw."""
    command = (sys.executable, __file__, "--talk", way, address, str(streams), str(tokens))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    told: dict[str, float] = json.loads(out)
    return told


@asynccontextmanager
async def door(runtime: str) -> AsyncIterator[tuple[psutil.Process, str]]:
    """`sinkserve web`, and its address."""
    services = {"SINKSERVE_CLIENT_RUNTIME": runtime, "SINKSERVE_WEB_LISTEN": "127.0.0.1:0"}
    command = (sys.executable, "-m", "sinkserve.cli", "web")
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **services}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield psutil.Process(process.pid), (await process.stdout.readline()).decode().split()[1]
    finally:
        process.terminate()
        await process.wait()


async def talk(way: str, address: str, streams: int, tokens: int) -> dict[str, float]:
    """As many turns at once; seconds are from the first token of a stream to its last."""
    if way == "grpc":
        async with Client(address, NOBODY) as client:
            seen = await asyncio.gather(*(by_sdk(client, tokens) for _ in range(streams)))
    else:
        async with httpx2.AsyncClient(
            base_url=address, timeout=None, limits=httpx2.Limits(max_connections=None)
        ) as web:
            seen = await asyncio.gather(*(over_http(web, way, tokens) for _ in range(streams)))
    return {
        "first_ms": 1000 * median(first for first, _ in seen),
        "token_ms": 1000 * median(rest / (tokens - 1) for _, rest in seen),
        "tokens": streams * tokens,
    }


async def by_sdk(client: Client, tokens: int) -> tuple[float, float]:
    began = time.perf_counter()
    async with client.conversation("demo") as conversation:
        turn = await conversation.say("hello", max_new_tokens=tokens, ignore_eos=True)
        return await timed(began, aiter(turn))


async def over_http(web: httpx2.AsyncClient, way: str, tokens: int) -> tuple[float, float]:
    url, body = BODIES[way](tokens)
    began = time.perf_counter()
    async with web.stream("POST", url, json={"model": "demo", "stream": True, **body}) as answer:
        answer.raise_for_status()
        return await timed(began, deltas(answer))


async def deltas(answer: httpx2.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and ('"delta":"' in line or '"delta":{"content"' in line):
            yield line


async def timed(began: float, pieces: AsyncIterator[object]) -> tuple[float, float]:
    """Seconds to the first piece, and from there to the last."""
    first = last = 0.0
    async for _ in pieces:
        last = time.perf_counter()
        first = first or last
    return first - began, last - first


BODIES: dict[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "responses": lambda tokens: ("/v1/responses", {"input": "hello", "max_output_tokens": tokens}),
    "chat": lambda tokens: (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens},
    ),
}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("streams", "way", "first token, ms", "a token, ms", "door's processor, ms a token")
    for row in rows:
        figures = (f"{row[name]:.2f}" for name in ("first_ms", "token_ms", "door_cpu_ms"))
        table.add_row(str(row["streams"]), row["way"], *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
