"""A lowered graph as the compiler has it: read by the real parser, and told how it will be run.

The same for TensorRT 10.15 and newer, 11, and TensorRT-RTX. Types are strong and come from the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import tensorrt as trt

from builder_service.tensorrt.progress import CompileProgress
from common.engine.tensorrt.library import Library
from common.engine.tensorrt.log import TensorRtLog, causes
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import Precision
from common.window import Geometry

_ERRORS_SHOWN = 3

Shape = tuple[int, ...]


class Network:
    """A parsed graph, and what has to live as long as it: a log and a builder that are gone take it along.

    Raises FailedPrecondition (TOOLCHAIN_FAILED) for what the parser does not take, with node and operator.
    """

    def __init__(self, graph: Path, library: Library, write_log: Callable[[str], None]) -> None:
        self.log = TensorRtLog(write_log, library.title)
        self.builder = trt.Builder(self.log)
        # Version 10 has to be told that types are strong; 11 knows no other.
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._graph = graph
        self._title = f"{library.title} {trt.__version__}"
        self._parser = trt.OnnxParser(self.network, self.log)
        if not self._parser.parse_from_file(str(graph)):
            raise self._not_parsed()

    @property
    def layers(self) -> dict[str, int]:
        """How many layers it has of each kind, such as MATRIX_MULTIPLY."""
        kinds = Counter(self.network[index].type.name for index in range(len(self.network)))
        return dict(sorted(kinds.items()))

    def config(self, geometry: Geometry, precision: Precision) -> trt.IBuilderConfig:
        """How it is compiled for every target: arithmetic, and the two profiles."""
        config = self.builder.create_builder_config()
        config.set_flag(trt.BuilderFlag.STRICT_NANS)  # a slot's NaN has to reach its logits
        if precision is Precision.FP32:
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and has 10 bits of mantissa
        ports = onnx.load(self._graph, load_external_data=False).graph.input
        for batch, step in _profiles(geometry):
            config.add_optimization_profile(_profile(self.builder.create_optimization_profile(), ports, batch, step))
        return config

    def not_compiled(self) -> FailedPrecondition:
        """The error of a compilation that returned nothing, with the compiler's last words."""
        return _failed(f"{self._title} does not compile the graph: {self.log.last_words}")

    def _not_parsed(self) -> FailedPrecondition:
        errors = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
        said = [
            f"node {e.node_name() or '?'} ({e.node_operator() or '?'}): {causes(e.desc())}"
            for e in errors[:_ERRORS_SHOWN]
        ]
        # Of a file of weights that ends too early, say, the parser knows that something failed, and the log why.
        said += [] if any(e.node_operator() for e in errors) else [self.log.last_words]
        what = "; ".join(said)
        failure = _failed(f"the ONNX parser of {self._title} does not take the graph: {what}")
        if errors:
            failure.metadata |= {"node": errors[0].node_name(), "operator": errors[0].node_operator()}
        return failure


class Monitor(trt.IProgressMonitor):
    """Receives the compiler's phases. No exception may pass through it: it is kept, and ends the compilation."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._phases = CompileProgress()
        self.failure: Exception | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._tell(self._phases.start(phase_name, parent_phase, num_steps))

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._tell(self._phases.step(phase_name, step))
        return self.failure is None

    def phase_finish(self, phase_name: str) -> None:
        self._tell(self._phases.finish(phase_name))

    def _tell(self, share: float) -> None:
        if self.failure is None:
            try:
                self._progress(share)
            except Exception as error:  # noqa: BLE001 - it is raised again when the compiler has returned
                self.failure = error


def _profiles(geometry: Geometry) -> Iterator[tuple[Shape, Shape]]:
    """Least, best and most slots and tokens: one token for as many slots as there are, and a chunk for one."""
    slots, chunk = geometry.slots, geometry.chunk
    yield (1, slots, slots), (1, 1, 1)
    yield (1, 1, slots), (1, chunk, chunk)


def _profile(
    profile: trt.IOptimizationProfile, ports: list[onnx.ValueInfoProto], batch: Shape, step: Shape
) -> trt.IOptimizationProfile:
    for port in ports:
        extents = ({"batch": b, "step": s, "outputs": b} for b, s in zip(batch, step, strict=True))
        low, best, high = (_shape(port, each) for each in extents)
        profile.set_shape(port.name, trt.Dims(low), trt.Dims(best), trt.Dims(high))
    return profile


def _shape(port: onnx.ValueInfoProto, extents: dict[str, int]) -> Shape:
    return tuple(extents.get(dim.dim_param, dim.dim_value) for dim in port.type.tensor_type.shape.dim)


def _failed(message: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.TOOLCHAIN_FAILED, message)
