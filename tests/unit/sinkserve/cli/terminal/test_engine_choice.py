"""Which engine `run` and `spec init` choose, and the reason that they give."""

from __future__ import annotations

import pytest

from common.errors import FailedPrecondition, Reason
from common.spec.hardware import GpuMachine
from common.spec.manifest import Architecture
from common.spec.model_spec import Precision, Target
from common.spec.target_options import KvPrecision
from sinkserve.cli.terminal.engine_choice import choose_kv, choose_target, suit_precision

SHAPES = Architecture(
    family="llama",
    layers=1,
    hidden=1,
    heads=1,
    kv_heads=1,
    head_dim=1,
    intermediate=1,
    vocabulary=1,
    trained_context=1,
    parameters=1,
)


GPU = GpuMachine(
    gpu="NVIDIA H200",
    compute_capability="9.0",
    tensorrt_version="10.13.3.9",
    cuda_version="13.0",
    cuda_driver_version="13.0",
    platform="linux-x86_64",
    free_bytes=1,
    total_bytes=1,
)


def no_gpu() -> GpuMachine:
    raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, "this process has no NVIDIA GPU that works: there is none")


def test_a_gpu_that_tensorrt_finds_is_used_and_named() -> None:
    chosen = choose_target(None, lambda: GPU)
    assert chosen.target is Target.TENSORRT
    assert "NVIDIA H200" in chosen.reason
    assert "10.13.3.9" in chosen.reason


def test_without_one_the_processor_is_used_and_it_is_said_why() -> None:
    chosen = choose_target(None, no_gpu)
    assert chosen.target is Target.ONNXRUNTIME
    assert "no NVIDIA GPU" in chosen.reason


def test_a_precision_that_only_processors_have_keeps_the_processor() -> None:
    chosen = choose_target(Precision.KEEP, lambda: GPU)
    assert chosen.target is Target.ONNXRUNTIME
    assert "keep" in chosen.reason


def test_small_models_stay_in_fp32_and_large_ones_take_eight_bits() -> None:
    large = SHAPES.model_copy(update={"parameters": 1_100_000_000})
    assert suit_precision(Target.ONNXRUNTIME, SHAPES, {}).precision is Precision.FP32
    assert suit_precision(Target.ONNXRUNTIME, large, {"torch_dtype": "bfloat16"}).precision is Precision.INT8


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT_LLM])
@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"torch_dtype": "bfloat16"}, Precision.BF16),
        ({"dtype": "bfloat16"}, Precision.BF16),
        ({"torch_dtype": "float16"}, Precision.FP16),
        ({"dtype": "float32"}, Precision.FP16),
        ({}, Precision.FP16),
    ],
)
def test_a_gpu_takes_sixteen_bits_with_the_range_of_the_checkpoint(
    target: Target, config: dict[str, str], precision: Precision
) -> None:
    assert suit_precision(target, SHAPES, config).precision is precision


@pytest.mark.parametrize(
    ("target", "precision", "available", "expected"),
    [
        (Target.ONNXRUNTIME, Precision.INT8, True, KvPrecision.INT8),
        (Target.ONNXRUNTIME, Precision.KEEP, True, KvPrecision.INT8),
        (Target.ONNXRUNTIME, Precision.INT8, False, KvPrecision.FLOAT32),
        (Target.ONNXRUNTIME, Precision.FP32, True, KvPrecision.FLOAT32),
    ],
)
def test_keys_and_values_have_8_bits_where_the_operator_is_and_weights_are_not_exact(
    target: Target, precision: Precision, available: bool, expected: KvPrecision
) -> None:
    chosen = choose_kv(target, precision, lambda: available)
    assert chosen is not None
    assert chosen.precision is expected
    assert ("operator" in chosen.reason) is (precision is Precision.INT8 and not available)


def test_gpus_have_no_such_choice() -> None:
    assert choose_kv(Target.TENSORRT, Precision.FP16, lambda: True) is None
