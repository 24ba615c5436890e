"""Estimates the memory and disk that a build needs, so that it is refused early rather than killed late."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from builder_service.checkpoint.checkpoint import BlockFormat
from builder_service.machine.out_of_memory import mib
from builder_service.model.weight_format import ROUNDED, WeightFormat
from common.engine.packed_rows import packed_dim
from common.errors import Reason, ResourceExhausted
from common.spec.manifest import Architecture
from common.spec.model_spec import PLAN_TARGETS, Precision, Target
from common.window import Geometry

_BYTES = {
    Precision.FP32: 4.0,
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.INT8: 1.0,
}
"""Bytes of a weight."""
_FOUR, _EIGHT = BlockFormat(4, 1), BlockFormat(8, 1)
"""In int4: most weights, and those of the embedding."""
_TEXT_BYTES = 8 * 4000
"""Of a number in float64, for each token of the text that weights are rounded by."""
_PROCESS_BYTES = 300 * 2**20
"""An idle build process, with its libraries."""
_COMPILER_BYTES = 250 * 2**20
"""What TensorRT-RTX adds to it, with a model that weighs nothing."""
_WEIGHTS_IN_MEMORY = 1.5
"""Peak of the weights in memory, over their size: as built, loaded for VERIFY, and one matrix in float64."""
_WEIGHTS_IN_COMPILER = 3.6
"""The same where TensorRT-RTX compiles, which is more than VERIFY takes afterwards."""


@dataclass(frozen=True)
class Estimate:
    """Needs of a build, in bytes."""

    weight_bytes: int
    kv_bytes_per_slot: int
    memory_bytes: int
    disk_bytes: int


def estimate(
    architecture: Architecture,
    geometry: Geometry,
    weight_format: WeightFormat,
    target: Target = Target.ONNXRUNTIME,
) -> Estimate:
    """What a build of these shapes needs."""
    precision = weight_format.precision
    embedding = architecture.vocabulary * architecture.hidden
    each, looked_up = _bytes_each(weight_format)
    weights = round((architecture.parameters - embedding) * each + embedding * looked_up)
    kv = kv_bytes_per_slot(architecture, geometry, weight_format)
    text = _TEXT_BYTES * (5 * architecture.intermediate + 5 * architecture.hidden) if precision in ROUNDED else 0
    memory = max(_memory(target, weights, kv * geometry.slots), _PROCESS_BYTES + text)
    # In the work folder and, once published, in the store; a plan has weights of its own.
    copies = 3 if target in PLAN_TARGETS else 2
    return Estimate(weights, kv, memory, copies * weights)


def _memory(target: Target, weights: int, kv: int) -> int:
    """Peak of memory, in bytes."""
    if target is Target.TENSORRT_RTX:
        return _PROCESS_BYTES + _COMPILER_BYTES + round(weights * _WEIGHTS_IN_COMPILER) + 2 * kv
    return _PROCESS_BYTES + round(weights * _WEIGHTS_IN_MEMORY) + kv


def _bytes_each(weight_format: WeightFormat) -> tuple[float, float]:
    """Bytes of a weight, and of one of the embedding."""
    precision = weight_format.precision
    if weight_format.on_gpu and precision in ROUNDED:  # its rows are looked up in 16 bits, and multiply in 8
        each = replace(_FOUR, block=weight_format.block).bytes_each if precision is Precision.INT4 else 1.0
        return each, _BYTES[weight_format.arithmetic] + 1.0
    if precision is Precision.INT4:
        four, eight = (replace(form, block=weight_format.block).bytes_each for form in (_FOUR, _EIGHT))
        return four, eight
    each = weight_format.kept_bytes_each if precision is Precision.KEEP else _BYTES[precision]
    return each, each


def kv_bytes_per_slot(architecture: Architecture, geometry: Geometry, weight_format: WeightFormat) -> int:
    """Bytes of one slot's keys and values: 8 bits and a scale, 16 bits if weights are 16-bit floats, else float32."""
    number_bytes = 2 if weight_format.arithmetic in (Precision.FP16, Precision.BF16) else 4
    head = architecture.head_dim * number_bytes
    head = packed_dim(architecture.head_dim) if weight_format.narrow_cache else head
    return 2 * architecture.layers * architecture.kv_heads * head * geometry.rows


def check_fits(needs: Estimate, free_memory_bytes: int, free_disk_bytes: int, work: Path) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY, OUT_OF_DISK) with what is needed and what is free."""
    memory, disk = needs.memory_bytes, needs.disk_bytes
    if memory > free_memory_bytes:
        message = f"the build needs about {mib(memory)} of memory and {mib(free_memory_bytes)} are free"
        raise ResourceExhausted(
            Reason.OUT_OF_MEMORY, message, stage="PLAN", estimate_bytes=memory, free_bytes=free_memory_bytes
        )
    if disk > free_disk_bytes:
        message = f"the build needs about {mib(disk)} of disk and {mib(free_disk_bytes)} are free in {work}"
        raise ResourceExhausted(
            Reason.OUT_OF_DISK, message, stage="PLAN", path=work, needed_bytes=disk, free_bytes=free_disk_bytes
        )


def check_fits_device(needs: Estimate, free_bytes: int) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY) unless the device has room for the weights and one slot."""
    need = needs.weight_bytes + needs.kv_bytes_per_slot
    if need > free_bytes:
        message = f"the engine needs at least {mib(need)} of device memory and {mib(free_bytes)} are free"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, message, estimate_bytes=need, free_bytes=free_bytes)
