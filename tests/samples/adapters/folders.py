"""Small random LoRA adapters in the layout of peft, for checkpoints of any family."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Shapes = Mapping[str, tuple[int, ...]]


def write_adapter(
    folder: Path, shapes: Shapes, *, rank: int = 4, seed: int = 0, dtype: Any = np.float32, **config: Any
) -> Path:
    """An adapter for modules of these names and shapes [out, in], and its folder; `config` is what is said besides."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module, (outputs, inputs) in shapes.items():
        own = config.get("rank_pattern", {}).get(module, rank)
        key = f"base_model.model.{module}"
        tensors[f"{key}.lora_A.weight"] = random.standard_normal((own, inputs), np.float32).astype(dtype)
        tensors[f"{key}.lora_B.weight"] = (random.standard_normal((outputs, own), np.float32) * 0.1).astype(dtype)
        if config.get("use_dora"):
            tensors[f"{key}.lora_magnitude_vector"] = 1 + random.random(outputs, np.float32).astype(dtype)
    return save_adapter(folder, tensors, r=rank, **config)


def save_adapter(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> Path:
    """An adapter of these tensors, and its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"peft_type": "LORA", "lora_alpha": 8, "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


def matrices(shapes: Shapes, without: Collection[str] = ("embed", "lm_head", "norm")) -> dict[str, tuple[int, ...]]:
    """The modules with a matrix among a checkpoint's tensors."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in without)
    }
