"""Small GGUF files for tests: written from a checkpoint folder, each tensor in a type of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, TokenType, get_tensor_name_map

from builder_service.checkpoint.folder import FolderCheckpoint
from tests.samples.gguf.blocks import Types, all_float, encode
from tests.samples.gguf.fields import architecture, fields


def write_gguf(
    path: Path,
    folder: Path,
    types: Types = all_float,
    *,
    parts: int = 1,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write the checkpoint in `folder` as a GGUF at `path`, or in `parts` beside it; returns the first file.

    `metadata` are added (None removes a key), and so are float32 `tensors`.
    """
    checkpoint = FolderCheckpoint(folder)
    keys = {**fields(checkpoint.config), **_vocabulary(checkpoint), **(metadata or {})}
    stored = {**_stored(checkpoint), **(tensors or {})}
    names = list(stored)
    files = (
        [path] if parts == 1 else [path.with_name(f"{path.stem}-{n + 1:05}-of-{parts:05}.gguf") for n in range(parts)]
    )
    for number, file in enumerate(files):
        split = {"split.no": number, "split.count": parts, "split.tensors.count": len(stored)} if parts > 1 else {}
        writer = GGUFWriter(file, architecture(checkpoint.config))
        for key, value in ({**keys, **split} if number == 0 else split).items():
            _add(writer, key, value)
        for name in names[number::parts]:
            kind = types(name)
            writer.add_tensor(name, encode(stored[name], kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files[0]


def _vocabulary(checkpoint: FolderCheckpoint) -> dict[str, Any]:
    """The keys of a byte-level tokenizer as `tests.samples.tokenizers` writes it; none if there is none."""
    described = checkpoint.tokenizer
    if described is None:
        return {}
    tokenizer = described.tokenizer
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    found = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": vocabulary,
        "token_type": [int(TokenType.CONTROL if token in special else TokenType.NORMAL) for token in vocabulary],
        "merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "bos_token_id": vocabulary.index("<s>"),
        "eos_token_id": vocabulary.index("</s>"),
        "eot_token_id": vocabulary.index("<|end|>"),
        "add_bos_token": False,
    }
    keys = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    key = "tokenizer.chat_template"
    templates = checkpoint.chat_templates.items()
    return keys | {key if name == "default" else f"{key}.{name}": text for name, text in templates}


def _stored(checkpoint: FolderCheckpoint) -> dict[str, np.ndarray]:
    """Tensors by GGUF's names, in its order and with its norms; factors of rotation are tensors too."""
    config = checkpoint.config
    known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture(config))
    names = get_tensor_name_map(MODEL_ARCH(known), config["num_hidden_layers"])
    scaling = config.get("rope_scaling") or {}
    found = {
        f"rope_factors_{length}.weight": np.array(scaling[f"{length}_factor"], np.float32)
        for length in ("long", "short")
        if f"{length}_factor" in scaling
    }
    experts: dict[str, list[np.ndarray]] = {}
    for name in checkpoint.tensors.names:
        values = _converted(name, checkpoint.tensors.tensor(name), config)
        own = str(names.get_name(re.sub(r"\.experts\.\d+\.", ".experts.", name), try_suffixes=(".weight", ".bias")))
        if ".experts." in name:
            experts.setdefault(own, []).append(values)
        else:
            found[own] = values
    return found | {name: np.stack(parts) for name, parts in experts.items()}


def _converted(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Heads as they suit llama.cpp's rotation, and norms as it multiplies by them."""
    part = name.split(".")[-2]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    if part in heads and architecture(config) in ("llama", "smollm3", "granite", "arcee"):
        halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    return values + 1 if architecture(config).startswith("gemma") and name.endswith("norm.weight") else values


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            assert isinstance(value, list), json.dumps(value)
            writer.add_array(key, value)
