"""The ways in which checkpoints for tests are packed, and what their config.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Way:
    """How a checkpoint is packed."""

    method: str
    bits: int = 4
    group: int = 32  # -1: all inputs of a row
    symmetric: bool = False
    version: str = "gptq"  # `checkpoint_format` of GPTQ
    shuffled: bool = False  # GPTQ's act-order: inputs of a group lie anywhere
    alike: bool = True  # matrices that read the same have the same order

    @property
    def config(self) -> dict[str, Any]:
        """`quantization_config`."""
        match self.method:
            case "awq":
                return {"quant_method": "awq", "bits": 4, "group_size": self.group, "version": "gemm"} | {
                    "zero_point": True,
                    "modules_to_not_convert": ["model.layers.1.mlp.up_proj"],
                }
            case "gptq":
                said = {"quant_method": "gptq", "bits": self.bits, "group_size": self.group, "sym": self.symmetric}
                return said | {"desc_act": self.shuffled, "checkpoint_format": self.version}
            case _:
                weights = {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric}
                weights |= (
                    {"strategy": "channel"} if self.group < 0 else {"strategy": "group", "group_size": self.group}
                )
                groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
                said = {"quant_method": self.method, "format": "pack-quantized", "quantization_status": "compressed"}
                return said | {"config_groups": groups, "ignore": ["lm_head", "model.layers.1.mlp.up_proj"]}


WAYS: Mapping[str, Way] = {
    "awq": Way("awq"),
    "awq-by-row": Way("awq", group=-1),
    "gptq": Way("gptq"),
    "gptq-v2": Way("gptq", version="gptq_v2"),
    "gptq-symmetric": Way("gptq", symmetric=True, group=16),
    "gptq-8": Way("gptq", bits=8, group=48),
    "gptq-act-order": Way("gptq", shuffled=True, version="gptq_v2"),
    "gptq-act-orders": Way("gptq", shuffled=True, alike=False),
    "compressed": Way("compressed-tensors"),
    "compressed-symmetric": Way("compressed-tensors", symmetric=True, group=128),
    "compressed-8-by-row": Way("compressed-tensors", bits=8, group=-1, symmetric=True),
    "compressed-act-order": Way("compressed-tensors", shuffled=True),
}
