"""A conversation in text with a real model, as a user meets it: SinkServe's services beside llama-cpp-python's server.

    .venv-peers/llama/bin/pip install 'llama-cpp-python[server]==0.3.36'
    python bench/peers/conversation.py SmolLM2-135M-Instruct.Q4_1.gguf emma.txt --turns 20

Both read the same GGUF file, keep its weights as they are, and are told the same passages of a text (`bench/emma.py`)
by turns. Seconds are those that a peer's processes have taken of processors, so they hold where others work too;
`--clock wall` counts those on the wall. Our engine is what `sinkserve run` takes.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bench.peers.process import ROOT
from common.rpc.wire import spec_to_wire
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source
from demo.chat import own_settings
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, Conversation

CACHE = CacheGeometry(sink_tokens=256, window_tokens=4096, chunk_tokens=64, max_slots=8)
WORDS = 45  # of a passage: some 64 tokens
PATIENCE_S = 600
Reply = Callable[[str], AsyncIterator[str]]  # what is said to what comes back, a piece a token


@dataclass(frozen=True)
class Said:
    """A turn: seconds until its first token and in all, and tokens of the reply."""

    first_s: float
    total_s: float
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / (self.total_s - self.first_s)


class LlamaServer:
    """llama-cpp-python's server, which finds the beginning of a conversation in its cache again."""

    def __init__(self, port: int, new: int) -> None:
        self._port, self._new = port, new
        self._messages: list[dict[str, str]] = []

    async def pieces(self, text: str) -> AsyncIterator[str]:
        """Say `text`; the reply as it comes, a token each."""
        self._messages.append({"role": "user", "content": text})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        body = {"messages": self._messages, "max_tokens": self._new, "temperature": 0.0, "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        said = []
        for line in connection.getresponse():
            if line.startswith(b"data: {") and (piece := json.loads(line[6:])["choices"][0]["delta"].get("content")):
                said.append(piece)
                yield piece
        self._messages.append({"role": "assistant", "content": "".join(said)})


async def told(pieces: AsyncIterator[str], clock: Callable[[], float]) -> Said:
    """Time one reply."""
    began, first, tokens = clock(), 0.0, 0
    async for _ in pieces:
        first = first or clock() - began
        tokens += 1
    return Said(first, clock() - began, tokens)


def processor_seconds(process: psutil.Process) -> float:
    """What all threads of a process and of its children have taken of processors so far."""
    nanoseconds = 0
    for each in (process, *process.children(recursive=True)):
        for task in Path(f"/proc/{each.pid}/task").glob("*/schedstat"):
            nanoseconds += int(task.read_text().split()[0])
    return nanoseconds / 1e9


@contextmanager
def llama_server(python: Path, model: Path, threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """The server on a free port, once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    options = {"model": model, "n_ctx": CACHE.window_tokens, "n_threads": threads, "n_threads_batch": threads}
    command = [str(python), "-m", "llama_cpp.server", "--port", str(port)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            while child.poll() is None and not _listens(port):
                time.sleep(0.5)
            yield port, psutil.Process(child.pid)
        finally:
            child.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def main() -> None:
    arguments = _arguments()
    words = arguments.text.read_text().split()
    passages = [" ".join(words[at : at + WORDS]) for at in range(0, arguments.turns * WORDS, WORDS)]
    with (
        tempfile.TemporaryDirectory() as home,
        llama_server(arguments.python, arguments.model, arguments.threads) as (port, server),
    ):
        own_settings(home)
        os.environ["SINKSERVE_RUNTIME_THREADS"] = str(arguments.threads)
        with embedded_services(arguments.model.parent) as addresses:
            (services,) = (each for each in psutil.Process().children() if each.pid != server.pid)
            async with Client(addresses.runtime, addresses.builder) as client:
                engine = await _build(client, arguments.model)
                async with client.conversation(engine) as session:
                    replies: list[Reply] = [
                        partial(_reply, session, arguments.new),
                        LlamaServer(port, arguments.new).pieces,
                    ]
                    clocks = [_clock(arguments.clock, process) for process in (services, server)]
                    await _converse(passages, replies, clocks)


async def _build(client: Client, model: Path) -> str:
    source = Source(uri=str(model))
    spec = ModelSpec(name="conversation", source=source, precision=Precision.KEEP, cache=CACHE)
    built = await client.builds.wait((await client.builds.submit(spec_to_wire(spec))).name)
    return built.engine


async def _reply(session: Conversation, new: int, text: str) -> AsyncIterator[str]:
    """Say `text` to ours; something for each token."""
    turn = await session.say(text, temperature=0.0, max_new_tokens=new)
    async for delta in turn:
        for _ in delta.token_ids:
            yield delta.text


async def _converse(passages: list[str], replies: list[Reply], clocks: list[Callable[[], float]]) -> None:
    """Tell every passage to both; print each turn, and the medians of ratios."""
    print("| turn | ours: first token, ms | tokens/s | llama.cpp: first token, ms | tokens/s |")
    print("| --- | --- | --- | --- | --- |")
    turns = []
    for number, passage in enumerate(passages, 1):
        both = [await told(reply(passage), clock) for reply, clock in zip(replies, clocks, strict=True)]
        turns.append(both)
        figures = " | ".join(f"{1e3 * said.first_s:.0f} | {said.rate:.1f}" for said in both)
        print(f"| {number} | {figures} |", flush=True)
    first = statistics.median(theirs.first_s / own.first_s for own, theirs in turns)
    rate = statistics.median(own.rate / theirs.rate for own, theirs in turns)
    print(f"\nours is {first:.2f} times as soon with the first token, and {rate:.2f} times as fast then (medians)")


def _clock(name: str, process: psutil.Process) -> Callable[[], float]:
    return time.perf_counter if name == "wall" else lambda: processor_seconds(process)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda path: Path(path).resolve(), help="a GGUF file")
    parser.add_argument("text", type=Path)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--new", type=int, default=100, help="most tokens of a reply")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=("cpu", "wall"))
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-peers" / "llama" / "bin" / "python")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
