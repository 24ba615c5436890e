"""From a lowered graph to a plan of TensorRT-RTX, on any machine: no GPU and no driver take part.

The plan holds kernels for every compute capability that is named; they are finished where it is loaded. Two plans of
one graph differ in some bytes. `use` the library before this module is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import tensorrt as trt
import tensorrt_rtx_bindings as rtx

from builder_service.tensorrt.network import Monitor, Network
from builder_service.tensorrt.progress import EstimatedProgress
from common.engine.tensorrt.library import TENSORRT_RTX
from common.spec.model_spec import Precision
from common.spec.rtx_gpus import TensorRtRtxOptions
from common.window import Geometry

_TICK_S = 0.5
_LEAST_S, _A_LAYER_S, _A_GIB_S = 1.0, 0.75, 18.0
"""Measured: a layer of a model, and a GiB of its weights."""


def expected_s(layers: int, weight_bytes: int) -> float:
    """Seconds of processor time that a compilation takes, about."""
    return _LEAST_S + _A_LAYER_S * layers + _A_GIB_S * weight_bytes / 2**30


@dataclass(frozen=True)
class TensorRtRtxCompiler:
    """Compiles plans. `progress` gets the share done, from 0 to 1, by what the compiler says, and while it says nothing
    by processor time: it is silent for most of its time, and an end can be forced only by ending its process.
    """

    geometry: Geometry
    precision: Precision
    options: TensorRtRtxOptions
    expected_s: float
    progress: Callable[[float], None]
    write_log: Callable[[str], None]

    def compile(self, graph: Path, plan: Path) -> dict[str, int]:
        """Write `plan` from `graph`, and return the layers of its network by kind.

        Raises FailedPrecondition (TOOLCHAIN_FAILED): for what the parser does not take with node and operator, for
        all else with the compiler's last words; MemoryError and OSError where it had no room.
        """
        self.write_log(
            f"TensorRT-RTX says little while it compiles: its progress is an estimate, of {self.expected_s:.0f} s"
        )
        estimate = EstimatedProgress(self.expected_s)
        # First of all: Python waits for ever for a thread that finds no memory to start in.
        with _ticking(lambda elapsed_s: self.progress(estimate.share(elapsed_s))):
            network = Network(graph, TENSORRT_RTX, self.write_log)
            config = network.config(self.geometry, self.precision)
            _name_targets(config, self.options)
            monitor = Monitor(estimate.told)
            config.progress_monitor = monitor
            with plan.open("wb") as file:
                _write(network, config, _PlanWriter(file))
        return network.layers


def _write(network: Network, config: trt.IBuilderConfig, writer: _PlanWriter) -> None:
    """By way of a stream: without one the plan is in memory twice."""
    written = network.builder.build_serialized_network_to_stream(network.network, config, writer)
    if writer.failure is not None:
        raise writer.failure
    if not written:
        raise network.not_compiled()


def _name_targets(config: trt.IBuilderConfig, options: TensorRtRtxOptions) -> None:
    """Name every compute capability: with none set the compiler takes some of its own, and does not say which."""
    own = cast("rtx.IBuilderConfig", config)
    names = options.compute_capabilities
    own.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        capability = getattr(rtx.ComputeCapability, name.upper())
        assert own.set_compute_capability(capability, index), name


class _PlanWriter(trt.IStreamWriter):
    """Writes to a file. No exception may pass through the compiler: it is kept, and ends the compilation."""

    def __init__(self, file: BinaryIO) -> None:
        trt.IStreamWriter.__init__(self)
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.failure = error
            return 0
        return len(data)


@contextmanager
def _ticking(tick: Callable[[float], None]) -> Iterator[None]:
    """Call `tick` now and then with the seconds of processor time so far: where others take the processor too, those of
    a clock say nothing. What `tick` raises is raised at the end.
    """
    start, ended, failures = time.process_time(), threading.Event(), list[Exception]()

    def run() -> None:
        try:
            while not ended.wait(_TICK_S):
                tick(time.process_time() - start)
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that compiles
            failures.append(error)

    thread = threading.Thread(target=run, name="compile-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]
