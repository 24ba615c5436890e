"""The engine on ONNX Runtime's CPU provider: keys and values stay in place, a batch is a range of slots by pointer.

The one module that knows onnxruntime. The graph's inputs and outputs: `builder_service.graph.graph`.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from common.engine.angles import Angles
from common.engine.batch import Batch, longest_step, plan_batch
from common.engine.denormals import flushed_denormals
from common.engine.engine import Feed, FloatArray, SlotState, check_tokens
from common.engine.kernel import operator_library
from common.engine.kv_pool import KvPool, aligned_zeros
from common.engine.slot_layout import Place
from common.engine.step_inputs import StepInputs
from common.errors import FailedPrecondition, Internal, Reason
from common.spec.manifest import Architecture, Rope
from common.window import Geometry, SessionWindow

DRAFT_ROWS = 16
"""A step of up to so many rows takes at most about twice as long as one of one row: it waits for the weights to be
read."""
BINDINGS_KEPT = 64
"""Shapes of steps whose binding is kept; making one takes up to some milliseconds in a deep model."""
SPIN_US = "50"
"""How long its threads spin before they sleep: long enough from one node to the next, not from one step to the next."""


class OnnxRuntimeEngine:
    """An `Engine`. `threads` 0: one a processor.

    Raises FailedPrecondition (ENGINE_INCOMPATIBLE) for a graph that onnxruntime cannot load, and one of another shape
    than geometry and architecture say.

    A number that is not finite anywhere in a slot makes all logits of that slot NaN (0 * NaN is NaN in a masked
    row too), and only of that slot: so finite logits prove a clean slot. Padding that leaves such a number in an
    idle slot is wiped at once.
    """

    def __init__(
        self,
        graph: Path,
        architecture: Architecture,
        rope: Rope,
        geometry: Geometry,
        *,
        threads: int = 0,
    ) -> None:
        self._geometry = geometry
        self._vocabulary = architecture.vocabulary
        self._session = _load(graph, threads)
        self._inputs = StepInputs(geometry, Angles.of(rope), longest=longest_step(geometry, 0))
        ports = {put.name: put.shape for put in self._session.get_inputs()}
        varies = isinstance(ports["mask"][-1], str)
        self._pool = KvPool(
            architecture,
            geometry,
            value_columns="value_columns_0" in ports,
            narrow="kv_scales_0" in ports,
            varies=varies,
        )
        self._logits = aligned_zeros((max(geometry.slots, DRAFT_ROWS), architecture.vocabulary))
        self._bindings: OrderedDict[tuple[Place, int, int, int], Any] = OrderedDict()
        self._check_shapes()

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def vocabulary_size(self) -> int:
        return self._vocabulary

    @property
    def slot_multiple(self) -> int:
        return 1

    @property
    def draft_rows(self) -> int:
        return DRAFT_ROWS

    def longest_step(self, position: int) -> int:
        return longest_step(self._geometry, position)

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        batch, binding = self._prepare(feeds)
        self._run(binding)
        self._wipe_poisoned_padding(batch)
        return self._logits[batch.answers(feeds)]

    def clear(self, slot: int) -> None:
        self._pool.clear(slot)

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        return self._pool.export_slot(slot, position, window)

    def import_slot(self, slot: int, state: SlotState) -> None:
        self._pool.import_slot(slot, state)

    def close(self) -> None:
        self._bindings.clear()
        del self._session, self._pool, self._inputs, self._logits

    def _prepare(self, feeds: tuple[Feed, ...]) -> tuple[Batch, Any]:
        """Everything of a step before onnxruntime runs: its layout, the inputs' numbers, and pointers to them."""
        check_tokens(feeds, self._vocabulary)
        batch = plan_batch(self._geometry, feeds, draft_rows=DRAFT_ROWS, longest=self.longest_step)
        ends = tuple(row + batch.step for row in batch.rows)
        place = self._pool.lay_out(batch.first, ends, batch.step)
        self._inputs.fill(batch, place.rows)
        return batch, self._binding(batch, place)

    def _run(self, binding: Any) -> None:  # noqa: ANN401 - onnxruntime publishes no types
        try:
            with flushed_denormals():
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise Internal(Reason.INTERNAL, f"onnxruntime failed in a step: {error}") from error

    def _binding(self, batch: Batch, place: Place) -> Any:  # noqa: ANN401 - onnxruntime publishes no types
        key = (place, batch.size, batch.step, len(batch.outputs))
        if key not in self._bindings:
            self._bindings[key] = self._bind(*key)
            if len(self._bindings) > BINDINGS_KEPT:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return self._bindings[key]

    def _bind(self, first: Place, size: int, step: int, outputs: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
        binding = self._session.io_binding()
        wanted = {put.name for put in self._session.get_inputs()}
        for name, array in self._inputs.views(size, step, outputs, first.rows).named().items():
            if name in wanted:
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, part in self._pool.part(first, size):
            binding.bind_input(name, "cpu", 0, part.dtype.type, part.shape, part.ctypes.data)
            binding.bind_output(f"{name}_out", "cpu", 0, part.dtype.type, part.shape, part.ctypes.data)
        logits = self._logits[:outputs]
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        return binding

    def _wipe_poisoned_padding(self, batch: Batch) -> None:
        for index, place in batch.idle():
            if not np.isfinite(self._logits[place]).all():
                self._pool.clear_rows(batch.first + index, batch.rows[index], batch.rows[index] + batch.step)

    def _check_shapes(self) -> None:
        found = {put.name: tuple(put.shape[1:]) for put in self._session.get_inputs()}
        given = self._inputs.views(1, 1, 1).named() | dict(self._pool.named())
        if unknown := sorted(found.keys() - given.keys()):
            message = f"the graph takes {', '.join(unknown)}, which this version does not give; build the engine again"
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message)
        for name, pool in self._pool.named():
            if not _fits(found.get(name, ()), pool.shape[1:]):
                raise FailedPrecondition(
                    Reason.ENGINE_INCOMPATIBLE,
                    f"the graph has {name} of {found.get(name)}, the manifest says {pool.shape[1:]}",
                )


def _fits(extents: tuple[int | str, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array of `shape` is one of `extents`, of which words may be anything."""
    return len(extents) == len(shape) and all(isinstance(e, str) or e == s for e, s in zip(extents, shape, strict=True))


def _load(graph: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings speak of choices made here on purpose
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # of its threads; sets this one too
    operator_library.register(options)
    try:
        with flushed_denormals():
            return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes for this, with no common one
        message = f"onnxruntime {ort.__version__} cannot load the graph: {error}"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message) from error
