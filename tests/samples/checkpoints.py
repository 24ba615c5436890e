"""Tiny random Llama checkpoints in Hugging Face's layout, for tests: the same arguments give the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from builder_service.families.registry import read_model
from builder_service.model.tensors import source_shapes
from tests.samples.tokenizers import write_tokenizer

_EMBEDDINGS = (
    "embed_tokens.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "wte.weight",
    "tok_embeddings.weight",
)
DTYPES: Mapping[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class LlamaShape(TypedDict, total=False):
    """What a checkpoint may be asked for, as config.json will say it."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int | None
    intermediate: int | None
    tied: bool
    bias: bool
    rope_scaling: dict[str, Any] | None
    max_position: int


def write_checkpoint(
    folder: Path,
    *,
    vocab: int = 384,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
    tokenizer: bool = True,
    chat_template: bool = True,
    config: Mapping[str, Any] | None = None,
    **shape: Unpack[LlamaShape],
) -> Path:
    """Write a checkpoint and return its folder; `config` overrides or adds fields of config.json.

    `vocab` must be at least 300 where a tokenizer is written. Weights have the scale of trained ones, so that logits
    differ clearly from token to token.
    """
    fields = llama_config(vocab=vocab, dtype=dtype, **shape) | dict(config or {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [1, 4]}))
    write_weights(folder, fields, dtype, shards, seed)
    if tokenizer:
        write_tokenizer(folder, vocab, chat_template=chat_template)
    return folder


def llama_config(
    *,
    vocab: int,
    dtype: str,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate: int | None = None,
    tied: bool = False,
    bias: bool = False,
    rope_scaling: dict[str, Any] | None = None,
    max_position: int = 512,
) -> dict[str, Any]:
    """What config.json says of a tiny Llama."""
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate or 2 * hidden + 16,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": max_position,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "attention_bias": bias,
        "mlp_bias": bias,
        "torch_dtype": dtype,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    fields |= {"head_dim": head_dim} if head_dim else {}
    fields |= {"rope_scaling": rope_scaling} if rope_scaling else {}
    return fields


def write_weights(
    folder: Path, fields: Mapping[str, Any], dtype: str = "float32", shards: int = 1, seed: int = 0
) -> None:
    """Random tensors of the model that `fields` (config.json) describe."""
    tensors = dict(_random_tensors(fields, DTYPES[dtype], seed))
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _random_tensors(fields: Mapping[str, Any], dtype: Any, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    for name, shape in source_shapes(read_model(fields, ignore=fields.keys())).items():
        values = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1 and name.endswith(".weight"):
            values = np.float32(1) + values * np.float32(0.1)
        elif len(shape) == 2 and not name.endswith(_EMBEDDINGS):
            values = values * np.float32(1.5 / np.sqrt(shape[1]))
        elif name.endswith("bias"):
            values = values * np.float32(0.1)
        yield name, values.astype(dtype)


def copy_checkpoint(source: Path, folder: Path) -> Path:
    """A copy that a test may build beside."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder
