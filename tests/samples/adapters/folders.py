"""Small random LoRA adapters in the layout of peft, for checkpoints of any family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Shapes = Mapping[str, tuple[int, ...]]


def matrices_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """The modules of a checkpoint's layers that have a matrix, and its shape."""
    return {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in load_file(folder / "model.safetensors").items()
        if tensor.ndim == 2 and name.endswith(".weight") and ("layers." in name or ".h." in name or "blocks." in name)
    }


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


def merge_by_hand(base: Path, adapter: Path, folder: Path) -> Path:
    """The checkpoint `base` with a plain adapter merged, alpha by rank, as one in `folder`; its tensors are float32."""
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(base / "model.safetensors").items()}
    parts = load_file(adapter / "adapter_model.safetensors")
    alpha = json.loads((adapter / "adapter_config.json").read_bytes())["lora_alpha"]
    for name in parts:
        if name.endswith(".lora_A.weight"):
            down, up = (parts[name.replace("lora_A", part)].astype(np.float64) for part in ("lora_A", "lora_B"))
            tensor = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[tensor] = (weights[tensor] + alpha / len(down) * (up @ down)).astype(np.float32)
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save_file(weights, folder / "model.safetensors")
    return folder
