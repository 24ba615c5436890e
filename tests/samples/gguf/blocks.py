"""Tensors of GGUF samples: in which type each is, and its bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quantize

F32 = GGMLQuantizationType.F32
Types = Callable[[str], GGMLQuantizationType]
_SCALE_AT: dict[GGMLQuantizationType, tuple[int, ...]] = {
    GGMLQuantizationType.Q2_K: (80, 82),
    GGMLQuantizationType.Q3_K: (108,),
    GGMLQuantizationType.Q4_K: (0, 2),
    GGMLQuantizationType.Q5_K: (0, 2),
    GGMLQuantizationType.Q6_K: (208,),
    GGMLQuantizationType.IQ4_NL: (0,),
    GGMLQuantizationType.IQ4_XS: (0,),
    GGMLQuantizationType.IQ2_XS: (0,),
}
"""Where a block has its float16 scales; the rest of it may be any bytes."""


def all_float(_name: str) -> GGMLQuantizationType:
    """Every tensor in float32."""
    return F32


def matrices_in(kind: GGMLQuantizationType, embedding: GGMLQuantizationType = F32) -> Types:
    """Matrices of the layers in one type, the embedding in another, vectors in float32."""

    def choose(name: str) -> GGMLQuantizationType:
        if name in {"token_embd.weight", "output.weight"}:
            return embedding
        return F32 if "norm" in name or name.endswith(".bias") else kind

    return choose


def encode(values: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> np.ndarray:
    """Values in a type; where the `gguf` package cannot quantize, blocks of random numbers in their place."""
    if kind == F32:
        return np.ascontiguousarray(values, np.float32)
    if kind not in _SCALE_AT:
        return np.asarray(quantize(np.ascontiguousarray(values, np.float32), kind))
    count, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(values.size)
    blocks = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // count, size), np.uint8)
    for at in _SCALE_AT[kind]:
        scales = rng.uniform(0.2, 1.0, blocks.shape[:-1]) * 0.001
        blocks[..., at : at + 2] = scales.astype("<f2")[..., None].view(np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)
