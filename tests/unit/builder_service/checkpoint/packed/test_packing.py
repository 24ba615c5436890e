"""quantization_config: what is read, and by which field the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from builder_service.checkpoint.packed.packing import Method, Packing, read_packing
from builder_service.families.registry import read_model
from common.errors import InvalidArgument, Reason
from tests.samples.families import CONFIGS

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}


def compressed(weights: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": WEIGHTS | (weights or {}), "input_activations": None}
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    return said | fields


@pytest.mark.parametrize(
    ("said", "packing"),
    [
        ({"quant_method": "awq", "version": "GEMM"}, Packing(Method.AWQ, 4, 128, symmetric=False)),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False, "desc_act": True},
            Packing(Method.GPTQ, 8, 0, symmetric=False, less_one=True),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 64, "format": "gptq_v2", "dynamic": {"-:lm_head": {}}},
            Packing(Method.GPTQ, 4, 64, symmetric=True),
        ),
        (
            compressed({"strategy": "channel", "group_size": None, "num_bits": 8}, ignore=["lm_head"]),
            Packing(Method.COMPRESSED_TENSORS, 8, 0, symmetric=True, left_out=("lm_head",)),
        ),
    ],
)
def test_what_is_read(said: dict[str, Any], packing: Packing) -> None:
    assert read_packing({"quantization_config": said}) == packing
    assert read_model({**CONFIGS["llama"], "quantization_config": said}) == read_model(CONFIGS["llama"])


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"quant_method": "fp8"}, "quant_method"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method"),
        ({"bits": 4}, "quant_method"),
        ("int4", "quant_method"),
        ({"quant_method": "awq", "version": "gemv"}, "version"),
        ({"quant_method": "awq", "version": "marlin"}, "version"),
        ({"quant_method": "awq", "zero_point": False}, "zero_point"),
        ({"quant_method": "awq", "bits": 8}, "bits"),
        ({"quant_method": "awq", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ({"quant_method": "gptq", "bits": 3}, "bits"),
        ({"quant_method": "gptq", "bits": [4]}, "bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "all"}, "group_size"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "is_marlin_format"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*q_proj": {"bits": 8}}}, "dynamic"),
        (compressed(format="float-quantized"), "format"),
        (compressed(config_groups={}), "config_groups"),
        (compressed(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
        (compressed(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format"),
        (compressed({"type": "float"}), "config_groups.group_0.weights.type"),
        (compressed({"num_bits": 3}), "config_groups.group_0.weights.num_bits"),
        (compressed({"strategy": "block"}), "config_groups.group_0.weights.strategy"),
        (compressed({"group_size": 0}), "config_groups.group_0.weights.group_size"),
    ],
)
def test_the_rest_is_refused_by_its_field_with_what_to_take_instead(said: object, field: str) -> None:
    with pytest.raises(InvalidArgument, match="take the checkpoint that it was made from") as caught:
        read_model({**CONFIGS["llama"], "quantization_config": said})
    assert caught.value.reason is Reason.CONFIG_UNSUPPORTED
    assert caught.value.violations[0].field == f"source.config.json.quantization_config.{field}"


def test_a_target_that_reads_checkpoints_itself_may_have_any() -> None:
    read_model({**CONFIGS["llama"], "quantization_config": {"quant_method": "fp8"}}, ("quantization_config",))
