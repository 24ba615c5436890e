"""The engine on TensorRT or TensorRT-RTX: keys and values in device memory, a batch is a range of slots by address.

In every step the small inputs go to the device and the logits of the last tokens come back, on one stream. The
graph's inputs and outputs: `builder_service.graph.graph`.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from common.engine.angles import Angles
from common.engine.batch import Batch, plan_batch
from common.engine.cuda_device import CudaDevice
from common.engine.device_kv_pool import DeviceKvPool
from common.engine.engine import Feed, FloatArray, SlotState, check_tokens
from common.engine.step_inputs import StepInputs
from common.engine.tensorrt.library import TENSORRT, Library
from common.engine.tensorrt.plan import DECODE, OUT, PREFILL, Shape, TensorRtPlan
from common.errors import FailedPrecondition, Reason
from common.spec.hardware import fitting_slots
from common.spec.manifest import Architecture, Rope
from common.window import Geometry, SessionWindow

log = structlog.get_logger()


class TensorRtEngine:
    """An `Engine`. It has as many of the geometry's slots as fit in `memory_share` of the free device memory.

    Raises what `TensorRtPlan` and `CudaDevice` raise, FailedPrecondition (ENGINE_INCOMPATIBLE) for a plan of another
    shape than geometry and architecture say, and ResourceExhausted (OUT_OF_MEMORY) where no slot fits.

    Numbers that are not finite: as in `OnnxRuntimeEngine`.
    """

    def __init__(
        self,
        plan: Path,
        architecture: Architecture,
        rope: Rope,
        geometry: Geometry,
        *,
        memory_share: float = 0.9,
        library: Library = TENSORRT,
    ) -> None:
        with ExitStack() as opened:
            self._device = opened.enter_context(closing(CudaDevice()))
            self._plan = opened.enter_context(closing(TensorRtPlan(plan, self._device.stream, log.warning, library)))
            self._check_shapes(architecture, geometry)
            self._geometry = self._fitted(architecture, geometry, memory_share)
            self._vocabulary = architecture.vocabulary
            self._allocate(architecture, rope)
            self._opened = opened.pop_all()

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def vocabulary_size(self) -> int:
        return self._vocabulary

    @property
    def slot_multiple(self) -> int:
        return self._pool.slot_multiple

    @property
    def draft_rows(self) -> int:
        return 0  # its profiles have one row of logits a slot

    def longest_step(self, position: int) -> int:  # noqa: ARG002 - a plan has its profiles
        return self.geometry.chunk

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        check_tokens(feeds, self._vocabulary)
        batch = plan_batch(self._geometry, feeds, multiple=self.slot_multiple)
        self._inputs.fill(batch)
        self._pool.mark_written(batch.first, batch.size)
        logits = self._run(batch)
        self._wipe_poisoned_padding(batch, logits)
        return logits[batch.answers(feeds)]

    def clear(self, slot: int) -> None:
        self._pool.clear(slot)

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:
        return self._pool.export_slot(slot, position, window)

    def import_slot(self, slot: int, state: SlotState) -> None:
        self._pool.import_slot(slot, state)

    def report(self) -> str:
        """What TensorRT's inspector says of the plan, as JSON."""
        return self._plan.report()

    def close(self) -> None:
        self._opened.close()
        del self._inputs, self._logits, self._pool

    def _allocate(self, architecture: Architecture, rope: Rope) -> None:
        geometry = self._geometry
        self._pool = DeviceKvPool(self._device, architecture, geometry, self._plan.cache_type)
        self._inputs = StepInputs(geometry, Angles.of(rope), self._device.pinned_zeros)
        self._logits: FloatArray = self._device.pinned_zeros((geometry.slots, architecture.vocabulary), np.float32)
        largest = self._inputs.views(geometry.slots, geometry.chunk, geometry.slots).named()
        taken = {name: array for name, array in largest.items() if name in self._plan.inputs}
        self._input_names = tuple(taken)
        self._addresses = {
            name: self._device.allocate(array.nbytes) for name, array in (taken | {"logits": self._logits}).items()
        }

    def _run(self, batch: Batch) -> FloatArray:
        views = self._inputs.views(batch.size, batch.step, batch.size).named()
        inputs = {name: views[name] for name in self._input_names}
        for name, array in inputs.items():
            self._device.copy_in(self._addresses[name], array)
        caches = dict(self._pool.named(batch.first))
        self._plan.run(
            DECODE if batch.step == 1 else PREFILL,
            self._shapes(batch, inputs),
            self._addresses | caches | {f"{name}{OUT}": address for name, address in caches.items()},
        )
        logits = self._logits[: batch.size]
        self._device.copy_out(logits, self._addresses["logits"])
        self._device.synchronize()
        return logits

    def _shapes(self, batch: Batch, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, Shape]:
        caches = {name: (batch.size, *shape[1:]) for name, shape in self._plan.caches.items()}
        return {name: array.shape for name, array in inputs.items()} | caches

    def _wipe_poisoned_padding(self, batch: Batch, logits: FloatArray) -> None:
        for index, place in batch.idle():
            if not np.isfinite(logits[place]).all():
                self._pool.clear_rows(batch.first + index, batch.rows[index], batch.rows[index] + batch.step)

    def _fitted(self, architecture: Architecture, geometry: Geometry, share: float) -> Geometry:
        """The geometry with the slots that fit beside the weights and contexts, which are loaded."""
        row = architecture.kv_heads * architecture.head_dim * self._plan.cache_type.itemsize
        slot_bytes = 2 * architecture.layers * geometry.rows * row
        staging = 4 * geometry.slots * (2 * geometry.chunk * geometry.rows + architecture.vocabulary)
        free = self._device.free_bytes()
        slots = fitting_slots(geometry.slots, slot_bytes, staging, free, share)
        log.info("engine.slots", slots=slots, of=geometry.slots, kv_bytes_per_slot=slot_bytes, free_bytes=free)
        return replace(geometry, slots=slots)

    def _check_shapes(self, architecture: Architecture, geometry: Geometry) -> None:
        expected = (-1, architecture.kv_heads, geometry.rows, architecture.head_dim)
        names = {f"{kind}_cache_{layer}" for layer in range(architecture.layers) for kind in ("key", "value")}
        if self._plan.caches != dict.fromkeys(names, expected):
            raise FailedPrecondition(
                Reason.ENGINE_INCOMPATIBLE, f"the plan has {self._plan.caches}, the manifest says {names} of {expected}"
            )
