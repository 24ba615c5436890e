"""Milliseconds of a step on the GPU, beside what its memory allows: one slot, all slots, and a chunk of a prompt.

    python bench/engine/gpu.py [CHECKPOINT] --precision bf16

Without a checkpoint: random weights in the shape of TinyLlama-1.1B. The limit counts the weights once and the rows of
every slot in the batch once, at the bandwidth of copying 1 GiB from device memory to device memory in the same run,
where every byte counts twice, read and written. A chunk computes more than it moves: its limit is only a lower bound.
"host" is the part of a step in which nobody waits for the device: Python, and asking for copies and kernels. The ratio
is that of the least times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from common.engine.tensorrt.machine import find_machine
from common.errors import SinkServeError
from common.spec.hardware import GpuMachine
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint


def main() -> None:
    arguments = parse()
    try:
        machine = find_machine()
    except SinkServeError as error:
        sys.exit(f"nothing can be measured here: {error}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.checkpoint or random_checkpoint(Path(scratch) / "checkpoint")
        measure(arguments, machine, folder, Path(scratch) / "engine")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    precisions = [str(precision) for precision in PRECISIONS[Target.TENSORRT]]
    parser.add_argument("--precision", default="bf16", choices=precisions)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--window", type=int, default=1020)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--copy-mib", type=int, default=1024, help="what is copied to measure bandwidth")
    return parser.parse_args()


def random_checkpoint(folder: Path) -> Path:
    print("writing random weights in the shape of TinyLlama-1.1B", file=sys.stderr)
    return write_checkpoint(
        folder,
        hidden=2048,
        layers=22,
        heads=32,
        kv_heads=4,
        intermediate=5632,
        vocab=32000,
        max_position=2048,
        dtype="bfloat16",
        tokenizer=False,
    )


def measure(arguments: argparse.Namespace, machine: GpuMachine, folder: Path, out: Path) -> None:
    from bench.engine.gpu_engine import Bench, copy_bandwidth  # noqa: PLC0415 - needs packages of GPU machines

    geometry = Geometry(arguments.sinks, arguments.window, arguments.chunk, arguments.slots)
    bandwidth = copy_bandwidth(arguments.copy_mib << 20)
    bench = Bench.of(folder, geometry, Precision(arguments.precision), out)
    versions = f"TensorRT {machine.tensorrt_version}, a driver for CUDA {machine.cuda_driver_version}"
    print(
        f"{machine.gpu}, {versions}: {arguments.precision}, {bench.engine.geometry}, compiled in {bench.seconds:.0f} s"
    )
    print(f"memory: {bandwidth / 1e9:.1f} GB/s read and written\n")
    print("| slots x tokens | ms: least | median | host | limit | least / limit | host / step | tokens/s: most |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for slots, step in ((1, 1), (bench.engine.geometry.slots, 1), (1, geometry.chunk)):
        limit = 1e3 * bench.moved_bytes(slots) / bandwidth
        report(slots, step, limit, *bench.milliseconds(slots, step, arguments.steps))
    bench.engine.close()


def report(slots: int, step: int, limit: float, times: list[float], hosts: list[float]) -> None:
    """Print a line of the table from milliseconds: of the limit, of steps, and of the host's part of them."""
    least, median, host = min(times), statistics.median(times), statistics.median(hosts)
    figures = (
        f"{least:.2f} | {median:.2f} | {host:.3f} | {limit:.2f} | {least / limit:.2f} | {100 * host / median:.0f}%"
    )
    print(f"| {slots} x {step} | {figures} | {1e3 * slots * step / least:.1f} |", flush=True)


if __name__ == "__main__":
    main()
