"""An engine on the GPU to be timed, and the bandwidth of the GPU's memory. Needs the packages of GPU machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cuda.bindings import runtime as cudart

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import ROUNDED, WeightFormat
from builder_service.pipeline.estimate import kv_bytes_per_slot
from builder_service.pipeline.export import write_model
from builder_service.tensorrt.compiler import TensorRtCompiler
from common.engine.cuda_device import CudaDevice
from common.engine.engine import Feed
from common.engine.tensorrt.engine import TensorRtEngine
from common.spec.manifest import GRAPH_PATH, PLAN_PATH, WEIGHTS_PATH
from common.spec.model_spec import Precision, Target
from common.spec.target_options import TensorRtOptions
from common.window import Geometry, SessionWindow, linear_run

_WARM_UP = 10
_COPIES = 10


@dataclass(frozen=True)
class Bench:
    """An engine, what a step of it has to read, and the seconds that compiling it took."""

    engine: TensorRtEngine
    weight_bytes: int
    slot_bytes: int
    seconds: float

    @classmethod
    def of(cls, folder: Path, geometry: Geometry, precision: Precision, out: Path) -> Self:
        """Export, compile and load the checkpoint in `folder`."""
        checkpoint = open_checkpoint(folder)
        model, plan = read_model(checkpoint.config), out / PLAN_PATH
        tensors = ModelTensors(checkpoint.tensors, model)
        weight_format = WeightFormat(precision, on_gpu=True)
        write_model(model, tensors, geometry, weight_format, out, lambda _: None, target=Target.TENSORRT)
        toolchain = TensorRtCompiler(geometry, precision, TensorRtOptions(), lambda _: None, _to_stderr)
        seconds = _seconds(lambda: toolchain.compile(out / GRAPH_PATH, plan, b""))
        shapes = model.architecture
        engine = TensorRtEngine(plan, shapes, read_rope(model, geometry), geometry)
        # Of an embedding that is not the output matrix too, a step reads next to nothing.
        unread = (
            0
            if model.tied and precision not in ROUNDED
            else shapes.vocabulary * shapes.hidden * (4 if precision is Precision.FP32 else 2)
        )
        weights = (out / WEIGHTS_PATH).stat().st_size - unread
        return cls(engine, weights, kv_bytes_per_slot(shapes, geometry, weight_format), seconds)

    def moved_bytes(self, slots: int) -> int:
        """What a step over `slots` slots has to read."""
        return self.weight_bytes + slots * self.slot_bytes

    def milliseconds(self, slots: int, step: int, count: int) -> tuple[list[float], list[float]]:
        """Of `count` steps, after some that do not count: in all, and without waiting for the device."""
        geometry = self.engine.geometry
        window = SessionWindow(geometry.sinks, geometry.window)
        feeds = tuple(Feed(slot, full_position(geometry, step), window, (1,) * step) for slot in range(slots))
        for _ in range(_WARM_UP):
            self.engine.step(feeds)
        waiting = _Waiting(self.engine)
        times, hosts = [], []
        for _ in range(count):
            waiting.seconds = 0.0
            times.append(1e3 * _seconds(lambda: self.engine.step(feeds)))
            hosts.append(times[-1] - 1e3 * waiting.seconds)
        waiting.end()
        return times, hosts


class _Waiting:
    """Counts the seconds in which the host waits for the engine's device, until `end`."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self.seconds = 0.0
        self._device = engine._device  # noqa: SLF001 - the one place where a step waits
        self._wait = self._device.synchronize
        vars(self._device)["synchronize"] = self._timed

    def end(self) -> None:
        del vars(self._device)["synchronize"]

    def _timed(self) -> None:
        self.seconds += _seconds(self._wait)


def full_position(geometry: Geometry, step: int) -> int:
    """A position with a full window where `step` tokens follow linearly."""
    position = geometry.sinks + 2 * geometry.ring
    assert linear_run(geometry, geometry.sinks, position) >= step
    return position


def copy_bandwidth(size_bytes: int) -> float:
    """Bytes a second that device memory reads and writes, the best of five times ten copies of `size_bytes`."""
    with closing(CudaDevice()) as device:
        source, target = device.allocate(size_bytes), device.allocate(size_bytes)
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice

        def copy() -> None:
            for _ in range(_COPIES):
                (error,) = cudart.cudaMemcpyAsync(target, source, size_bytes, kind, device.stream)
                assert error == cudart.cudaError_t.cudaSuccess, error
            device.synchronize()

        copy()
        return 2 * _COPIES * size_bytes / min(_seconds(copy) for _ in range(5))


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
