"""Folders of adapters are read as peft writes them, and what is not merged is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.adapter.adapter import ADAPTER_WEIGHTS, open_adapter
from builder_service.checkpoint.adapter.config import ADAPTER_CONFIG, read_config
from common.errors import InvalidArgument, NotFound
from tests.samples.adapters.folders import save_adapter, write_adapter

Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"
DOWN, UP = np.ones((4, 6), np.float32), np.ones((8, 4), np.float32)


def _said(folder: Path, **config: Any) -> Path:
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "LORA"} | config))
    return folder


@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({}, 8, 1.0),
        ({"r": 16, "lora_alpha": 8}, 16, 0.5),
        ({"r": 16, "lora_alpha": 8, "use_rslora": True}, 16, 2.0),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 1}}, 2, 4.0),
        ({"rank_pattern": {"_proj": 2, "proj": 3}}, 8, 1.0),
        ({"rank_pattern": {Q: 2}, "alpha_pattern": {f"^{Q}": 6}}, 2, 3.0),
        ({"alpha_pattern": {r".*\.self_attn\.\w+": 4, "q_proj": 99}}, 8, 0.5),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 0.5}}, 8, 0.0625),
        ({"init_lora_weights": "gaussian", "target_modules": "all-linear", "peft_version": "0.21.2"}, 8, 1.0),
        ({"lora_bias": False, "layer_replication": None, "qalora_group_size": 16, "bias": "all"}, 8, 1.0),
    ],
)
def test_ranks_and_factors(tmp_path: Path, config: dict[str, Any], rank: int, scale: float) -> None:
    found = read_config(_said(tmp_path, **config))
    assert (found.rank_of(Q), found.scale_of(Q)) == (rank, scale)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("r", 0),
        ("r", True),
        ("lora_alpha", "8"),
        ("lora_alpha", float("inf")),
        ("rank_pattern", []),
        ("rank_pattern", {"q_proj": 1.5}),
        ("alpha_pattern", {"(": 1}),
        ("alpha_pattern", {"(a+)+": 1}),
        ("alpha_pattern", {"(.{1,9}){9}": 1}),
        ("alpha_pattern", {".*" * 5: 1}),
        ("use_dora", "yes"),
        ("bias", "some"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", ["eva"]),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("alora_invocation_tokens", [1, 2]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [1]),
        ("lora_bias", True),
        ("use_qalora", True),
        ("something_new", 1),
    ],
)
def test_what_is_not_merged_is_refused_by_the_field(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=rf"{ADAPTER_CONFIG} has {field} = "):
        read_config(_said(tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        ({}, {}, "has no tensor"),
        ({f"{KEY}.lora_A.weight": DOWN}, {}, f"has no lora_B of {Q}"),
        ({f"{KEY}.lora_B.weight": UP}, {}, f"has no lora_A of {Q}"),
        ({f"{KEY}.lora_magnitude_vector": DOWN[0]}, {"use_dora": True}, f"has no lora_A of {Q}"),
        ({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP}, {"r": 2}, "says that its rank is 2"),
        ({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP[:, 1:]}, {}, r"\[4, 6\] and \[8, 3\]"),
        ({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP}, {"use_dora": True}, "no lora_magnitude_vector"),
        ({f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_A.default.weight": DOWN}, {}, "are the same"),
        ({f"{KEY}.lora_E": DOWN}, {}, "lora_E, and it is not known"),
        ({f"{KEY}.lora_B.bias": DOWN}, {}, "lora_B.bias, and it is not known"),
        ({f"{KEY}.token_adapter.trainable_tokens_delta": DOWN}, {}, "trainable_tokens_delta, and it is not known"),
        (
            {f"{KEY}.lora_embedding_A": DOWN, f"{KEY}.lora_embedding_B": UP, f"{KEY}.lora_magnitude_vector": UP[:, 0]},
            {"use_dora": True},
            "is an embedding with a lora_magnitude_vector",
        ),
    ],
)
def test_tensors_that_are_no_adapter_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], said: str
) -> None:
    save_adapter(tmp_path, tensors, **{"r": 4, **config})
    with pytest.raises(InvalidArgument, match=said):
        open_adapter(tmp_path)


def test_files_that_are_missing_or_pickled_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder at"):
        open_adapter(tmp_path / "nowhere")
    folder = write_adapter(tmp_path / "a", {Q: (8, 6)})
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidArgument, match=r"only safetensors is read.*torch\.load"):
        open_adapter(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(NotFound, match=f"has no {ADAPTER_WEIGHTS}; a LoRA adapter as peft saves it is needed"):
        open_adapter(folder)
