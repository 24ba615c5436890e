"""Every family's fp32 engine against Hugging Face's own model, while everything still fits the window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.families.registry import read_architecture
from common.window import Geometry, SessionWindow
from tests.samples.engines import build_engine
from tests.samples.families import CONFIGS, write_family
from tests.samples.streams import feed_all, random_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

LARGEST_RELATIVE_ERROR = 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    count = min(512, read_architecture(CONFIGS[name]).longest_context)
    folder, tokens = write_family(tmp_path / name, name), random_tokens(count, 96)
    expected = _dense_logits(folder, tokens)
    geometry = Geometry(sinks=4, window=count - 4, chunk=64, slots=2)
    engine = build_engine(folder, geometry)
    found = feed_all(engine, 1, SessionWindow(4, count - 4), tokens, [64, 1, 7])
    engine.close()
    errors = [np.abs(logits - expected[at]).max() / np.abs(expected[at]).max() for at, logits in found.items()]
    print(f"{name}: largest relative error {max(errors):.1e}")  # noqa: T201 - the figure is the point
    assert max(errors) < LARGEST_RELATIVE_ERROR


def _dense_logits(folder: Path, tokens: list[int]) -> np.ndarray:
    folder = _as_llama(folder) if folder.name == "internlm2" else folder
    wrapped = "text_config" in json.loads((folder / "config.json").read_text())
    kind = transformers.AutoModelForImageTextToText if wrapped else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor(tokens)[None]).logits[0].numpy())


def _as_llama(folder: Path) -> Path:
    """InternLM2, which Hugging Face's library does not have: Llama, but for names, and fused queries, keys, values."""
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    kv_heads, width = config["num_key_value_heads"], config["hidden_size"]
    renamed = {
        "model.tok_embeddings": "model.embed_tokens", "output": "lm_head", "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm", "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    out = {}
    for name, tensor in tensors.items():
        if "wqkv" in name:  # [kv_head, queries of it and key and value, dim, hidden]
            parts = tensor.reshape(kv_heads, -1, width // config["num_attention_heads"], width)
            for part, rows in zip("qkv", (parts[:, :-2], parts[:, -2], parts[:, -1]), strict=True):
                new = name.replace("attention.wqkv", f"self_attn.{part}_proj")
                out[new] = np.ascontiguousarray(rows.reshape(-1, width))
            continue
        for old, new in renamed.items():
            if f"{old}.weight" in name and (old != "output" or name == "output.weight"):
                out[name.replace(old, new)] = tensor
                break
        else:
            out[name] = tensor
    copy = folder.with_name("llama")
    copy.mkdir()
    fields = config | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (copy / "config.json").write_text(json.dumps(fields))
    save_file(out, copy / "model.safetensors", {"format": "pt"})
    return copy
