"""What a build will need of memory and disk, before it starts: it is refused early rather than killed late."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import Reason, ResourceExhausted
from common.manifest import Architecture
from common.spec import Precision, Target
from common.window import Geometry

_BYTES = {
    Precision.FP32: 4.0,
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.INT8: 1.0,
    Precision.INT4: 4.5 / 8,
}
"""Bytes of a weight in a matrix, scales of blocks included."""
_EMBEDDING_BYTES = _BYTES | {Precision.INT4: 1.0}
"""Bytes of a weight in the embedding."""
_PROCESS_BYTES = 300 * 2**20
"""An idle build process, with its libraries."""
_WEIGHTS_IN_MEMORY = 1.5
"""Peak of the weights in memory, over their size: as built, loaded for VERIFY, and one matrix in float64."""


@dataclass(frozen=True)
class Estimate:
    """Needs of a build, in bytes."""

    weight_bytes: int
    kv_bytes_per_slot: int
    memory_bytes: int
    disk_bytes: int


def estimate(
    architecture: Architecture, geometry: Geometry, precision: Precision, target: Target = Target.ONNXRUNTIME
) -> Estimate:
    """What a build of these shapes needs."""
    embedding = architecture.vocabulary * architecture.hidden
    others = architecture.parameters - embedding
    weights = round(others * _BYTES[precision] + embedding * _EMBEDDING_BYTES[precision])
    kv = kv_bytes_per_slot(architecture, geometry, precision)
    memory = _PROCESS_BYTES + round(weights * _WEIGHTS_IN_MEMORY) + kv * geometry.slots
    # In the work folder and, once published, in the store; a plan has weights of its own.
    copies = 3 if target is Target.TENSORRT else 2
    return Estimate(weights, kv, memory, copies * weights)


def kv_bytes_per_slot(architecture: Architecture, geometry: Geometry, precision: Precision) -> int:
    """Keys and values of one slot: in 16 bits where weights are 16-bit floats, else in float32."""
    number_bytes = 2 if precision in (Precision.FP16, Precision.BF16) else 4
    return 2 * number_bytes * architecture.layers * architecture.kv_heads * architecture.head_dim * geometry.rows


def check_fits(needs: Estimate, free_memory_bytes: int, free_disk_bytes: int) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY, OUT_OF_DISK) saying what is needed and what there is."""
    for what, reason, need, free in (
        ("memory", Reason.OUT_OF_MEMORY, needs.memory_bytes, free_memory_bytes),
        ("disk", Reason.OUT_OF_DISK, needs.disk_bytes, free_disk_bytes),
    ):
        if need > free:
            message = f"the build needs about {_mib(need)} of {what} and {_mib(free)} are free"
            raise ResourceExhausted(reason, message, needed_bytes=need, free_bytes=free)


def check_fits_device(needs: Estimate, free_bytes: int) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY) unless the device has room for the weights and one slot."""
    need = needs.weight_bytes + needs.kv_bytes_per_slot
    if need > free_bytes:
        message = f"the engine needs at least {_mib(need)} of device memory and {_mib(free_bytes)} are free"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, message, needed_bytes=need, free_bytes=free_bytes)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
