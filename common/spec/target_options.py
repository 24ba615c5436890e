"""How each target holds a model and compiles it, but for TensorRT-RTX, whose GPUs decide much (`rtx_gpus`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

INT4_BLOCK: Final = 32
"""Inputs that share a scale in int4, unless the spec says otherwise."""
Int4Block = Literal[32, 64, 128]


class HardwareCompatibility(StrEnum):
    """Which GPUs a TensorRT engine runs on, besides the kind that it was built on; the more, the slower."""

    NONE = "none"
    AMPERE_PLUS = "ampere_plus"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"


class KvPrecision(StrEnum):
    """How keys and values are held."""

    FLOAT32 = "float32"
    INT8 = "int8"
    """With a scale for each token and head."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OnnxRuntimeOptions(_Options):
    """How weights, keys and values are held for ONNX Runtime; for target onnxruntime only."""

    int4_block: Int4Block = INT4_BLOCK
    """Of precision int4 only: inputs that share a scale and a zero point. Fewer are nearer to the checkpoint, more are
    faster."""
    kv_precision: KvPrecision = KvPrecision.FLOAT32
    """How keys and values are held: int8, with a scale for each token and head, takes about a quarter of the memory.
    Decoding is faster with it where the processor has AVX-512; elsewhere that of many conversations at once is."""


class TensorRtOptions(_Options):
    """How TensorRT compiles; for target tensorrt only."""

    workspace_mib: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] = 0
    """Most device memory that a layer may use while it runs, in MiB; 0: TensorRT's own choice, all of the device's."""
    optimization_level: Annotated[int, Field(strict=True, ge=0, le=5)] = 3
    """How long TensorRT searches for fast kernels: 0 builds quickest, 5 runs fastest."""
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    """Which GPUs the engine runs on, besides the kind that it was built on."""
    version_compatible: StrictBool = False
    """Whether later versions of TensorRT can run the engine, which may cost speed; otherwise only the very same."""
    int4_block: Literal[64, 128] = 64
    """Of precision int4 only: inputs that share a scale. Fewer are nearer to the checkpoint, more are smaller."""


class TensorRtLlmOptions(_Options):
    """How TensorRT-LLM spreads a model over GPUs and holds it; for target tensorrt_llm only."""

    version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+(rc[0-9]+)?$")] = "1.3.0rc27"
    """Version of TensorRT-LLM that a runtime has to have."""
    tensor_parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """GPUs that share each layer."""
    pipeline_parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Groups of such GPUs, each with some of the layers."""
    quantization: Literal["", "FP8", "W4A16_AWQ", "W8A16", "NVFP4"] = ""
    """One of TensorRT-LLM's QuantAlgo names for the weights; empty: as `precision` says."""
    kv_memory_fraction: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.9
    """Share of the device memory left free by the weights that keys and values may take."""
    stride_tokens: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0
    """Tokens that the window slides at once when it is recomputed; 0: a quarter of the window."""
