"""Memory of a build, estimated and taken; and the same build in less memory than it needs: it fails alone, and why.

    python bench/builder/memory.py --precision int8 [--shape 1.1b] [--limit-mib 1500]
    python bench/builder/memory.py --target tensorrt_rtx --precision bf16

Builds random weights of a real shape four times: as it likes, below a limit of its own (RLIMIT_DATA), in a control
group of that size (where this machine lets one be made: the kernel kills it), and as it likes again. For
TensorRT-RTX, whose compiler takes nearly all of the memory and the time, once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil

from bench.peers.checkpoint import write_weights
from builder_service.machine.cgroup import ROOT
from builder_service.machine.memory import peak_memory_bytes
from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from builder_service.worker.child_process import COMMAND
from common.settings import SharedSettings
from sinkserve.builder.v1.builder_service_pb2 import Build, WatchBuildResponse
from sinkserve.cli.terminal.console import duration
from sinkserve.client import Client
from sinkserve.client.errors import from_status
from sinkserve.engine.v1 import engine_pb2

SHAPES = {"1.1b": (2048, 5632, 22, 32, 4, 32_000), "0.1b": (768, 2048, 10, 12, 12, 32_000)}
"""Hidden, intermediate, layers, heads, key and value heads, vocabulary; the first is TinyLlama's."""
_CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}


async def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="sinkserve-memory-", dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        write_checkpoint(folder / "model", arguments.shape)
        async with building(folder) as client:
            await report(client, folder, arguments, "as it likes")
            if arguments.target != "onnxruntime":
                return
            await report(client, folder, arguments, "limited", lambda pid: limit(pid, arguments.limit_mib))
            with control_group(arguments.limit_mib) as group:
                if group is not None:
                    await report(client, folder, arguments, "in a group", lambda pid: enter(pid, group))
            await report(client, folder, arguments, "as it likes")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1.1b", choices=SHAPES)
    parser.add_argument("--precision", default="int8", choices=("fp32", "fp16", "bf16", "int8", "int4", "fp8"))
    parser.add_argument("--target", default="onnxruntime", choices=("onnxruntime", "tensorrt_rtx"))
    parser.add_argument("--limit-mib", type=int, default=1000)
    parser.add_argument("--scratch", help="folder with room for the checkpoint and two engines")
    return parser.parse_args()


@contextlib.asynccontextmanager
async def building(folder: Path) -> AsyncIterator[Client]:
    settings = BuilderSettings(listen="127.0.0.1:0", metrics_listen="", source_roots=(folder,))
    builder = await start_builder(settings, SharedSettings(home=folder / "home"))
    try:
        async with Client(builder=builder.address) as client:
            yield client
    finally:
        await builder.stop()


async def report(
    client: Client, folder: Path, arguments: argparse.Namespace, how: str, change: Callable[[int], object] | None = None
) -> None:
    """Build once; `change` happens to the build's process when the first weights are written."""
    # Another window each time, or the engine of the first build would be used again.
    cache = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=252 + next(_NUMBERS), chunk_tokens=16, max_slots=2)
    precision = engine_pb2.Precision.Value(f"PRECISION_{arguments.precision.upper()}")
    source = engine_pb2.Source(uri=str(folder / "model"))
    target = engine_pb2.Target.Value(f"TARGET_{arguments.target.upper()}")
    spec = engine_pb2.ModelSpec(name="shape", source=source, target=target, precision=precision, cache=cache)
    build = await client.builds.submit(spec)
    stages, peak, log = await follow(client, build, change)
    ended = await client.builds.get(build.name)
    print(f"\n{arguments.shape} {arguments.precision}, {how}: {Build.State.Name(ended.state)}, peak {peak >> 20} MiB")
    print("  " + next((line for line in log if "of memory for the build" in line), ""))
    print("  " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages), flush=True)
    if ended.HasField("error"):
        error = from_status(ended.error)
        print(f"  {error.reason}: {error.message}\n  {error.metadata}", flush=True)


_NUMBERS = itertools.count()


async def follow(
    client: Client, build: Build, change: Callable[[int], object] | None, say: Callable[[str], object] = print
) -> tuple[list[tuple[str, float]], int, list[str]]:
    """Seconds of each stage, the most memory that the process had, and its log."""
    begun: list[tuple[str, float]] = []
    log: list[str] = []
    peak, told = 0, time.monotonic()
    async for event in client.builds.watch(build.name):
        process = child()
        peak = max(peak, peak_memory_bytes(process) if process else 0)
        stage = event.progress.stage
        if event.HasField("log"):
            log.append(event.log.text)
        if stage and (not begun or begun[-1][0] != name_of(stage)):
            begun.append((name_of(stage), time.monotonic()))
        if stage == Build.STAGE_QUANTIZE and change is not None and process:
            change(process)
            change = None
        if stage and time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"    {name_of(stage)} {said(event)}")
    ends = [*begun[1:], ("", time.monotonic())]
    return [(name, end - start) for (name, start), (_, end) in zip(begun, ends, strict=True)], peak, log


def said(event: WatchBuildResponse) -> str:
    progress = event.progress
    left = (
        duration(progress.remaining_duration.ToMilliseconds() / 1000)
        if progress.HasField("remaining_duration")
        else "?"
    )
    return f"{progress.stage_progress:.0%}, build {progress.build_progress:.0%}, {left} left"


def name_of(stage: Build.Stage.ValueType) -> str:
    return Build.Stage.Name(stage).removeprefix("STAGE_").lower()


def child() -> int | None:
    """The build's process."""
    children = psutil.Process().children()
    with contextlib.suppress(psutil.Error):
        return next((each.pid for each in children if COMMAND[-1] in each.cmdline()), None)
    return None


def limit(process: int, mib: int) -> None:
    resource.prlimit(process, resource.RLIMIT_DATA, (mib << 20, mib << 20))


@contextlib.contextmanager
def control_group(mib: int) -> Iterator[Path | None]:
    """A memory group of this size, of either version; None where none may be made."""
    for parent, most in ((ROOT, "memory.max"), (ROOT / "memory", "memory.limit_in_bytes")):
        if (group := make_group(parent, most, mib)) is not None:
            yield group
            while (group / "cgroup.procs").read_text():
                time.sleep(0.1)
            group.rmdir()
            return
    print("\nno control group can be made here, so no kernel kills")
    yield None


def make_group(parent: Path, most: str, mib: int) -> Path | None:
    group = parent / f"sinkserve-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    if not (group / most).exists():  # a folder like any other: nothing that limits is mounted here
        group.rmdir()
        return None
    (group / most).write_text(str(mib << 20))
    return group


def enter(process: int, group: Path) -> None:
    """Pages that it has already stay with the group that it leaves."""
    (group / "cgroup.procs").write_text(str(process))


def write_checkpoint(folder: Path, shape: str) -> None:
    """A checkpoint of a shape, with random weights."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = _CONFIG | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(config, folder / "model.safetensors")


if __name__ == "__main__":
    asyncio.run(main())
