"""Which engine suits a checkpoint on a machine, and why: the fastest that loses next to nothing. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.opened import is_quantized
from common.engine.kernel import operator_library
from common.engine.tensorrt.machine import find_machine
from common.errors import FailedPrecondition
from common.spec.hardware import GpuMachine
from common.spec.manifest import Architecture
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.spec.target_options import KvPrecision

SMALL_MODEL = 200_000_000  # parameters that a processor reads in fp32 at a talking pace


@dataclass(frozen=True)
class TargetChoice:
    """Who executes an engine, and why."""

    target: Target
    reason: str


@dataclass(frozen=True)
class PrecisionChoice:
    """How an engine holds its weights, and why."""

    precision: Precision
    reason: str


@dataclass(frozen=True)
class KvChoice:
    """How an engine holds keys and values, and why."""

    precision: KvPrecision
    reason: str


def choose_target(precision: Precision | None, find: Callable[[], GpuMachine] = find_machine) -> TargetChoice:
    """The fastest on this machine that has the `precision` asked for, where builder and runtime are both here.

    `find` raises FailedPrecondition where there is no GPU, or no TensorRT.
    """
    if precision not in (None, *PRECISIONS[Target.TENSORRT]):
        return TargetChoice(Target.ONNXRUNTIME, f"the processor, since precision {precision} is for processors")
    try:
        machine = find()
    except FailedPrecondition:
        return TargetChoice(Target.ONNXRUNTIME, "the processor, since TensorRT finds no NVIDIA GPU here")
    return TargetChoice(Target.TENSORRT, f"{machine.gpu}, for which TensorRT {machine.tensorrt_version} is installed")


def choose_precision(target: Target, checkpoint: Checkpoint, shapes: Architecture) -> PrecisionChoice:
    """A quantized checkpoint keeps its weights where the target can hold them; see `suit_precision` for others."""
    if target is Target.ONNXRUNTIME and is_quantized(checkpoint):
        return PrecisionChoice(Precision.KEEP, "the checkpoint's own few bits, which are kept as they are")
    return suit_precision(target, shapes, checkpoint.config)


def suit_precision(target: Target, shapes: Architecture, config: Mapping[str, Any]) -> PrecisionChoice:
    """On a processor fp32 for a small model, int8 for another; on a GPU 16 bits, with the checkpoint's own range."""
    if target is not Target.ONNXRUNTIME:
        kept = config.get("dtype") or config.get("torch_dtype")
        precision = Precision.BF16 if kept == "bfloat16" else Precision.FP16
        return PrecisionChoice(precision, "16 bits, with the range of the checkpoint")
    if shapes.parameters < SMALL_MODEL:
        return PrecisionChoice(Precision.FP32, "exact, and soon built for a model this small; int8 is faster")
    return PrecisionChoice(Precision.INT8, "the fastest that loses next to nothing; int4 takes half the memory")


def choose_kv(
    target: Target, precision: Precision, available: Callable[[], bool] = operator_library.available
) -> KvChoice | None:
    """8 bits where weights are not exact either and attention has its own operator here; None: there is no choice."""
    if target is not Target.ONNXRUNTIME:
        return None
    if precision is Precision.FP32:
        return KvChoice(KvPrecision.FLOAT32, "exact, as the weights")
    if not available():
        return KvChoice(KvPrecision.FLOAT32, "the faster for one conversation without AVX-512 and int8's own operator")
    return KvChoice(KvPrecision.INT8, "the fastest, in about a quarter of float32's memory")
