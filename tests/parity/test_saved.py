"""Folders that Hugging Face itself has written are read, and mean what it means by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.model import Model
from builder_service.model.tensors import ModelTensors
from common.engine.engine import Feed
from common.window import Geometry, SessionWindow
from tests.samples.engines import build_engine
from tests.samples.families import CONFIGS, write_family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TOKENS = 48
GEOMETRY = Geometry(sinks=0, window=TOKENS, chunk=TOKENS, slots=1)


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"internlm2"}))
def test_every_family_means_the_same_after_hugging_face_has_written_it(tmp_path: Path, name: str) -> None:
    kind = (
        transformers.AutoModelForImageTextToText
        if "text_config" in CONFIGS[name]
        else transformers.AutoModelForCausalLM
    )
    ours = write_family(tmp_path / name, name)
    kind.from_pretrained(ours, dtype=torch.float32).save_pretrained(tmp_path / "saved")
    (model, tensors), (saved, saved_tensors) = (_read(folder) for folder in (ours, tmp_path / "saved"))
    assert read_rope(saved, GEOMETRY) == read_rope(model, GEOMETRY)
    assert replace(saved, rope=None, local_rope=None) == replace(model, rope=None, local_rope=None)
    for tensor in tensors.names:
        np.testing.assert_array_equal(saved_tensors.tensor(tensor), tensors.tensor(tensor))


def _read(folder: Path) -> tuple[Model, ModelTensors]:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    tensors = ModelTensors(checkpoint.tensors, model)
    tensors.check()
    return model, tensors


@pytest.mark.parametrize(
    ("fields", "saving"),
    [
        ({}, {}),
        ({"tie_word_embeddings": True}, {}),
        ({"attention_bias": True, "mlp_bias": True}, {"max_shard_size": "40KB"}),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}}, {}),
        ({"dtype": "bfloat16"}, {}),
    ],
)
def test_a_saved_model_is_read(tmp_path: Path, fields: dict[str, Any], saving: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, **fields,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, fields.get("dtype", "float32")))
    model.save_pretrained(tmp_path / "model", **saving)
    tokens = np.random.default_rng(0).integers(0, 100, TOKENS)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        expected = loaded.eval()(torch.tensor(tokens)[None]).logits[0, -1].numpy()

    engine = build_engine(tmp_path / "model", GEOMETRY)
    feed = Feed(0, 0, SessionWindow(0, TOKENS), tuple(int(token) for token in tokens))
    logits = engine.step((feed,))[0]

    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
