"""Milliseconds of a step, beside what memory bandwidth allows: one slot, all slots, and a chunk of a prompt.

    python bench/engine/step.py CHECKPOINT --precision int8

The limit counts the weights once and the rows that every slot in the batch holds once, at the bandwidth of summing
1 GiB on as many threads in the same run. "host" is the part of a step that is Python's. Machines are noisy: the ratio
is that of the least times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.engine.exported import exported_engine
from builder_service.model.weight_format import WeightFormat
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.spec.manifest import WEIGHTS_PATH, Architecture
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow, linear_run


@dataclass(frozen=True)
class Row:
    """A kind of step; milliseconds."""

    slots: int
    step: int
    least_ms: float
    median_ms: float
    host_ms: float
    limit_ms: float


def main() -> None:
    arguments = parse()
    geometry = Geometry(arguments.sinks, arguments.window, arguments.chunk, arguments.slots)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.engine or scratch)
        engine, architecture = load(arguments, geometry, out)
        bandwidth = measure_bandwidth(arguments.threads or os.cpu_count() or 1)
        weights = (out / WEIGHTS_PATH).stat().st_size - embedding_bytes(architecture, arguments.precision)
        kinds = ((1, 1), (geometry.slots, 1), (1, geometry.chunk))
        rows = [measure(engine, architecture, weights, bandwidth, *kind, arguments) for kind in kinds]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{arguments.precision}, {geometry}, {arguments.threads or os.cpu_count()} threads")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s read\n")
    print("| slots x tokens | ms: least | median | host | limit | least / limit | tokens/s: most |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        show(row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--engine", help="folder of an exported graph, made if it is empty")
    parser.add_argument("--precision", default="fp32", choices=[str(precision) for precision in Precision])
    parser.add_argument("--int4-block", type=int, default=32, choices=(32, 64, 128))
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--window", type=int, default=1020)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--position", type=int, default=0, help="of every session; past its window unless given")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def load(arguments: argparse.Namespace, geometry: Geometry, out: Path) -> tuple[OnnxRuntimeEngine, Architecture]:
    weight_format = WeightFormat(Precision(arguments.precision), arguments.int4_block)
    engine, model = exported_engine(arguments.checkpoint, geometry, weight_format, out, arguments.threads)
    return engine, model.architecture


def measure(  # noqa: PLR0917 - one line of the table
    engine: OnnxRuntimeEngine,
    architecture: Architecture,
    weights: int,
    bandwidth: float,
    slots: int,
    step: int,
    arguments: argparse.Namespace,
) -> Row:
    geometry = engine.geometry
    window = SessionWindow(geometry.sinks, geometry.window)
    position = arguments.position or full_position(geometry, step)
    feeds = tuple(Feed(slot, position, window, (1,) * step) for slot in range(slots))
    times = milliseconds(lambda: engine.step(feeds), arguments.steps)
    host = min(milliseconds(lambda: engine._prepare(feeds), arguments.steps))  # noqa: SLF001 - the part that is Python's
    rows = min(position + step, geometry.rows) * architecture.kv_heads * architecture.head_dim * 4
    limit = 1e3 * (weights + slots * architecture.layers * 2 * rows) / bandwidth
    return Row(slots, step, min(times), statistics.median(times), host, limit)


def show(row: Row) -> None:
    rate = 1e3 * row.slots * row.step / row.least_ms
    figures = f"{row.least_ms:.2f} | {row.median_ms:.2f} | {row.host_ms:.3f} | {row.limit_ms:.2f}"
    print(f"| {row.slots} x {row.step} | {figures} | {row.least_ms / row.limit_ms:.2f} | {rate:.1f} |")


def full_position(geometry: Geometry, step: int) -> int:
    """A position with a full window where `step` tokens follow linearly."""
    position = geometry.sinks + 2 * geometry.ring
    assert linear_run(geometry, geometry.sinks, position) >= step
    return position


def embedding_bytes(architecture: Architecture, precision: str) -> int:
    """Bytes of the embedding, of which a step reads next to nothing."""
    return architecture.vocabulary * architecture.hidden * (4 if precision == "fp32" else 1)


def measure_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read when they sum 1 GiB together."""
    blocks = np.array_split(np.ones(1 << 28, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        seconds = min(timed(lambda: list(pool.map(np.sum, blocks))) for _ in range(5))
    return (4 << 28) / seconds


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def milliseconds(act: Callable[[], object], count: int) -> list[float]:
    """`count` times of `act`, after three that do not count."""
    for _ in range(3):
        act()
    return [1e3 * timed(act) for _ in range(count)]


if __name__ == "__main__":
    main()
