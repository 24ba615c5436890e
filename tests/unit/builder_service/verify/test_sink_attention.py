"""The share of attention that sinks get, where it can be told beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.fake_quantize import FakeQuantized
from builder_service.verify.reference_model import ReferenceModel, Stream
from builder_service.verify.sink_attention import SinkAttention
from common.spec.model_spec import Precision
from common.window import Geometry
from tests.samples.checkpoints import write_checkpoint
from tests.samples.streams import random_tokens

STREAM = Stream(2, 6, tuple(range(30)), tuple(random_tokens(30, 384)))


def _figures(folder: Path, *streams: Stream) -> dict[str, float]:
    checkpoint, collected = open_checkpoint(folder), SinkAttention()
    model = read_model(checkpoint.config)
    weights = FakeQuantized(ModelTensors(checkpoint.tensors, model), WeightFormat(Precision.FP32))
    ReferenceModel(weights, model, read_rope(model, Geometry(2, 6, 4, 1)), collected).logits(streams)
    return collected.figures()


def test_queries_that_prefer_nothing_give_every_token_the_same(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    blind = {name: np.zeros_like(x) if "q_proj" in name else x for name, x in tensors.items()}
    save_file(blind, folder / "model.safetensors")
    assert _figures(folder, STREAM) == dict.fromkeys(
        ("sink_attention", "sink_attention_largest", "sink_attention_even"), pytest.approx(2 / 8)
    )


def test_a_layer_whose_sinks_draw_attention_stands_out(tmp_path: Path) -> None:
    """Queries and keys of the last layer that are one number, the same for all tokens but for the first two."""
    folder = write_checkpoint(tmp_path, tokenizer=False, layers=2)
    tensors = {name: x.copy() for name, x in load_file(folder / "model.safetensors").items()}
    plain = _figures(folder, STREAM)
    for part in "qk":
        tensors[f"model.layers.1.self_attn.{part}_proj.weight"][:] = 0
    tensors["model.layers.1.self_attn.k_proj.weight"][:, 0] = tensors["model.layers.1.self_attn.q_proj.weight"][
        :, 1
    ] = 9
    tensors["model.embed_tokens.weight"][:, 1] = 50.0
    tensors["model.embed_tokens.weight"][:, 0] = -50.0
    tensors["model.embed_tokens.weight"][list(STREAM.tokens[:2]), 0] = 50.0
    save_file(tensors, folder / "model.safetensors")
    found = _figures(folder, STREAM)
    assert found["sink_attention_largest"] > 0.9 > plain["sink_attention_largest"]
    assert found["sink_attention_even"] == plain["sink_attention_even"] == pytest.approx(2 / 8)


def test_noisy_streams_and_queries_that_see_all_are_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tokenizer=False)
    short = Stream(2, 6, tuple(range(8)), STREAM.tokens[:8])
    assert _figures(folder, short, replace(STREAM, noise=1e-6), replace(STREAM, sinks=0)) == {}
    assert _figures(folder, short, STREAM) == _figures(folder, STREAM)
