"""Streams that come and go by the hundred thousand: what does a runtime keep of those that were cancelled or cut?

    python bench/service/streams.py [--streams 100000] [--workers 16] [--bare] [--json]

A real runtime in a process of its own serves a fake engine. Each worker has a session, opens streams on it, sends turns
and ends the stream at a random point: by a cancel, a deadline, a half-close, or by cutting the TCP connection at a
random byte. After every tenth of the streams the server is asked what it holds; the last lines are growth per stream
after the first tenth. `heap` is what malloc has given out (glibc) after a collection of garbage: native leaks show
there, whatever the allocator keeps. With --bare the server is grpc.aio alone, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from common.telemetry import configure_logging
from common.window import Geometry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import Bench

POINTS = 10
GEOMETRY = Geometry(sinks=4, window=16, chunk=8, slots=16)
STEP_S = 0.001
CUT_SHARE = 8  # one worker in so many loses its connections instead of its streams
ENDS = ("cancel",) * 8 + ("deadline", "half-close")
QUICK = (("grpc.initial_reconnect_backoff_ms", 10), ("grpc.max_reconnect_backoff_ms", 50))


SERVICE = "sinkserve.runtime.v1.ConversationService"
Call = grpc.aio.StreamStreamCall[pb.ConverseRequest, pb.ConverseResponse]


@dataclass(frozen=True)
class Held:
    """What a process holds; bytes, and counts."""

    streams: int
    rss: int
    heap: int
    objects: int
    tasks: int
    open_streams: int
    client_heap: int = 0


_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    """As in malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def held(streams: int, open_streams: int = 0) -> Held:
    """What this process holds now."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    figures = mallinfo()
    return Held(
        streams=streams,
        rss=psutil.Process().memory_info().rss,
        heap=figures.uordblks + figures.hblkhd,
        objects=len(gc.get_objects()),
        tasks=len(asyncio.all_tasks()),
        open_streams=open_streams,
    )


# The server


async def serve(home: Path, *, bare: bool) -> None:
    """Serve until standard input ends; a line there is answered with what is held."""
    configure_logging(level=logging.WARNING)
    bench = Bench(home, {"admin_listen": "", "metrics_listen": "", "kept_events": 64}, geometry=GEOMETRY)

    def slowly(_feeds: object) -> None:
        bench.engines[0].steps.clear()
        time.sleep(STEP_S)

    bench.before_step = slowly
    if bare:
        address, stop = await _start_bare()
    else:
        bench.publish()
        await bench.start()
        address, stop = bench.handle.address, bench.stop
    print(address, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        await asyncio.sleep(0.5)
        print(json.dumps(asdict(held(0, 0 if bare else bench.handle.conversations.streams))), flush=True)
    await stop()


async def _start_bare() -> tuple[str, Callable[[], Awaitable[None]]]:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        _converse, pb.ConverseRequest.FromString, pb.ConverseResponse.SerializeToString
    )
    generic = grpc.method_handlers_generic_handler(SERVICE, {"Converse": handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return f"127.0.0.1:{port}", lambda: server.stop(None)


async def _converse(
    requests: AsyncIterator[pb.ConverseRequest],
    context: grpc.aio.ServicerContext[pb.ConverseRequest, pb.ConverseResponse],
) -> None:
    """Answer a first request with `opened` and every further one with a few events, as simply as can be."""
    async for request in requests:
        if request.HasField("open"):
            await context.write(pb.ConverseResponse(opened=pb.Opened(session=pb.Session(name="sessions/bare"))))
            continue
        for _ in range(request.turn.generation.max_new_tokens):
            await context.write(pb.ConverseResponse(delta=pb.Delta(turn_id="t", text="some", token_ids=[1, 2])))
            await asyncio.sleep(STEP_S)


# The clients


class Crowd:
    """Workers that open `streams` streams, all together; `ended` counts them by their end."""

    def __init__(self, address: str, streams: int, workers: int) -> None:
        self._address = address
        self._left = streams
        self._workers = workers
        self.ended: Counter[str] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(self._workers)))

    def _next(self) -> bool:
        self._left -= 1
        return self._left >= 0

    async def _work(self, number: int) -> None:
        dice = random.Random()
        if number % CUT_SHARE == 0:
            while self._next():
                await self._cut_once(number, dice)
            return
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = pb_grpc.ConversationServiceStub(channel)
            while self._next():
                end = dice.choice(ENDS)
                await _visit(stub, number, dice, end)
                self.ended[end] += 1

    async def _cut_once(self, number: int, dice: random.Random) -> None:
        """Talk through a connection that is cut at a random byte of the answers."""
        async with (
            FlakyProxy(self._address, [dice.randrange(200, 1500) for _ in range(9)]) as proxy,
            grpc.aio.insecure_channel(proxy.address, options=QUICK) as channel,
        ):
            stub = pb_grpc.ConversationServiceStub(channel)
            while not proxy.cuts:
                await _visit(stub, number, dice, "cut")
        self.ended["cut"] += 1


async def _visit(stub: pb_grpc.ConversationServiceAsyncStub, number: int, dice: random.Random, end: str) -> None:
    """One stream, up to its end."""
    timeout = dice.uniform(0.001, 0.04) if end == "deadline" else None
    call: Call = stub.Converse(timeout=timeout)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
        await _talk(call, number, dice, end)
    call.cancel()


async def _talk(call: Call, number: int, dice: random.Random, end: str) -> None:
    requests = [_open(number), _turn(4 if end == "half-close" else 500)]
    asked = dice.randrange(len(requests) + 1) if end == "cancel" else len(requests)
    for request in requests[:asked]:
        await call.write(request)
    if end == "half-close":
        await call.done_writing()
    for _ in range(dice.randrange((1, 2, 6)[asked]) if end == "cancel" else sys.maxsize):
        if await call.read() is grpc.aio.EOF:
            return


def _open(number: int) -> pb.ConverseRequest:
    new = pb.NewSession(engine="demo", session_id=f"worker-{number}")
    return pb.ConverseRequest(open=pb.Open(new_session=new))


def _turn(new_tokens: int) -> pb.ConverseRequest:
    options = pb.GenerationOptions(max_new_tokens=new_tokens, ignore_eos=True)
    return pb.ConverseRequest(turn=pb.Turn(text="hello", generation=options))


# The figures


async def main() -> int:
    arguments = _arguments()
    if arguments.serve is not None:
        await serve(arguments.serve, bare=arguments.bare)
        return 0
    console = Console(stderr=arguments.json)
    with tempfile.TemporaryDirectory(prefix="sinkserve-streams-") as home:
        points, ended = await measure(Path(home), arguments, console)
    if arguments.json:
        print(json.dumps([asdict(point) for point in points], indent=1))
    show(points, ended, console)
    return 0


async def measure(home: Path, arguments: argparse.Namespace, console: Console) -> tuple[list[Held], Counter[str]]:
    """Start the server, let streams come and go, and ask what is held after each tenth."""
    flags = ["--bare"] if arguments.bare else []
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", str(home), *flags, stdin=-1, stdout=-1
    )
    assert server.stdin is not None
    assert server.stdout is not None
    address = (await server.stdout.readline()).decode().strip()
    points: list[Held] = []
    ended: Counter[str] = Counter()
    for number in range(POINTS):
        crowd = Crowd(address, arguments.streams // POINTS, arguments.workers)
        await crowd.run()
        ended += crowd.ended
        server.stdin.write(b"\n")
        answer = json.loads(await server.stdout.readline())
        streams = (number + 1) * (arguments.streams // POINTS)
        points.append(Held(**{**answer, "streams": streams, "client_heap": held(0).heap}))
        console.print(f"[dim]{points[-1]}[/]")
    server.stdin.close()
    await server.wait()
    return points, ended


def show(points: list[Held], ended: Counter[str], console: Console) -> None:
    """The table, and growth after the first tenth."""
    table = Table("streams", "RSS, MiB", "heap, MiB", "objects", "tasks", "open streams", "client's heap, MiB")
    for point in points:
        table.add_row(
            str(point.streams),
            f"{point.rss / 2**20:.1f}",
            f"{point.heap / 2**20:.2f}",
            str(point.objects),
            str(point.tasks),
            str(point.open_streams),
            f"{point.client_heap / 2**20:.2f}",
        )
    console.print(table)
    first, last = points[0], points[-1]
    streams = last.streams - first.streams
    console.print("ended by", ", ".join(f"{end}: {count}" for end, count in sorted(ended.items())))
    for name in ("rss", "heap", "objects", "client_heap"):
        growth = getattr(last, name) - getattr(first, name)
        console.print(f"{name}: {growth:+d}, {growth / streams:+.1f} a stream")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
