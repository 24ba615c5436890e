"""How fast a checkpoint becomes an engine, beside what this disk and this memory can do; and a second geometry of it.

    python bench/builder/speed.py [--shape 1.1b] [--precision int8] [--json]

A real builder makes an engine of random weights, then one with another window from the same checkpoint, whose weights
are in the store already. The disk's speed is that of writing and syncing as many bytes as the engine has, memory's
that of reading the checkpoint, which the operating system holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.builder.memory import SHAPES, building, follow, write_checkpoint
from common.telemetry import configure_logging
from sinkserve.builder.v1.builder_service_pb2 import Build
from sinkserve.client import Client
from sinkserve.engine.v1 import engine_pb2

PIECE = 8 << 20


@dataclass(frozen=True)
class Built:
    """One build: seconds in all and by stage, and what it added to the store."""

    seconds: float
    stages: dict[str, float]
    stored_bytes: int

    @property
    def working_s(self) -> float:
        """Without the check against the reference, which computes in float64 whatever the engine's speed."""
        return self.seconds - self.stages.get("verify", 0.0)


@dataclass(frozen=True)
class BuildSpeed:
    """Speeds are bytes a second; shares are of what reading the checkpoint and writing the engine take at the least."""

    checkpoint_bytes: int
    read_speed: float
    write_speed: float
    first: Built
    second: Built

    @property
    def least_s(self) -> float:
        """Seconds to read the checkpoint once and to write the engine once."""
        return self.checkpoint_bytes / self.read_speed + self.first.stored_bytes / self.write_speed

    @property
    def share(self) -> float:
        """Of that limit, that the first build reaches."""
        return self.least_s / self.first.working_s

    @property
    def second_share(self) -> float:
        """What the second geometry adds to the store, of what the first did."""
        return self.second.stored_bytes / self.first.stored_bytes


def main() -> None:
    arguments = parse()
    configure_logging(json=False)  # to stderr
    with tempfile.TemporaryDirectory(prefix="sinkserve-build-", dir=arguments.scratch) as scratch:
        write_checkpoint(Path(scratch) / "model", arguments.shape)
        measured = asyncio.run(measure(Path(scratch), arguments.precision))
    if arguments.json:
        shares = {"share": measured.share, "second_share": measured.second_share}
        sys.stdout.write(json.dumps(asdict(measured) | shares) + "\n")
    else:
        show(measured, Console())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1.1b", choices=SHAPES)
    parser.add_argument("--precision", default="int8", choices=("fp32", "int8", "int4"))
    parser.add_argument("--scratch", help="folder with room for the checkpoint and two engines")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


async def measure(folder: Path, precision: str) -> BuildSpeed:
    weights = folder / "model" / "model.safetensors"
    async with building(folder) as client:
        first = await build(client, folder, precision, window=1020)
        second = await build(client, folder, precision, window=508)
    read, write = read_speed(weights), write_speed(folder / "written", first.stored_bytes)
    return BuildSpeed(weights.stat().st_size, read, write, first, second)


async def build(client: Client, folder: Path, precision: str, window: int) -> Built:
    """Build the checkpoint in `folder` with this window, and wait for it."""
    before, began = stored_bytes(folder), time.monotonic()
    spec = engine_pb2.ModelSpec(
        name="shape",
        source=engine_pb2.Source(uri=str(folder / "model")),
        precision=engine_pb2.Precision.Value(f"PRECISION_{precision.upper()}"),
        cache=engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=window, chunk_tokens=64, max_slots=8),
    )
    submitted = await client.builds.submit(spec)
    stages, _, _ = await follow(client, submitted, None, say=lambda _: None)
    ended = await client.builds.get(submitted.name)
    assert ended.state == Build.STATE_SUCCEEDED, ended
    return Built(time.monotonic() - began, dict(stages), stored_bytes(folder) - before)


def stored_bytes(folder: Path) -> int:
    """What the builder's store takes."""
    return sum(file.stat().st_blocks * 512 for file in (folder / "home" / "store").rglob("*") if file.is_file())


def read_speed(path: Path) -> float:
    """Of the second reading: from memory, where it is that large."""
    for _ in range(2):
        began = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(PIECE)
            while file.readinto(buffer):
                pass
    return path.stat().st_size / (time.perf_counter() - began)


def write_speed(path: Path, size: int) -> float:
    """Of writing `size` bytes until they are on the disk."""
    piece, began = os.urandom(PIECE), time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(-(-size // PIECE)):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return size / seconds


def show(measured: BuildSpeed, console: Console) -> None:
    """A column for each build, and the limit."""
    table = Table("", "first", "another window", title="A build")
    for stage in measured.first.stages:
        seconds = (each.stages.get(stage, 0.0) for each in (measured.first, measured.second))
        table.add_row(stage, *(f"{value:.1f} s" for value in seconds))
    table.add_row("in all", f"{measured.first.seconds:.1f} s", f"{measured.second.seconds:.1f} s")
    stored = (measured.first.stored_bytes, measured.second.stored_bytes)
    table.add_row("added to the store", *(f"{size / 2**20:,.0f} MiB" for size in stored))
    console.print(table)
    console.print(
        f"checkpoint {measured.checkpoint_bytes / 2**20:,.0f} MiB; reading it {measured.read_speed / 1e9:.1f} GB/s, "
        f"writing {measured.write_speed / 1e9:.1f} GB/s: {measured.least_s:.1f} s at the least, "
        f"{measured.share:.0%} of that speed without verify"
    )


if __name__ == "__main__":
    main()
