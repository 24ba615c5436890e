"""Two ways to read a GGUF: they agree where both are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from builder_service.checkpoint.opened import open_path
from builder_service.families.registry import read_model
from builder_service.model.tensors import ModelTensors
from builder_service.verify.second import gguf as second_gguf
from builder_service.verify.second.gguf import SecondGguf
from tests.samples.checkpoints import write_checkpoint
from tests.samples.families import write_family
from tests.samples.gguf.blocks import matrices_in
from tests.samples.gguf.files import write_gguf


def assert_agree(path: Path) -> None:
    checkpoint = open_path(path)
    model = read_model(checkpoint.config)
    first, second = ModelTensors(checkpoint.tensors, model), SecondGguf(checkpoint.weight_files, model)
    assert second.names == first.names
    for name in first.names:
        np.testing.assert_array_equal(second.tensor(name), first.tensor(name))
        assert second.tensor(name).dtype == np.float32


FAMILIES = (
    *("llama", "qwen2", "qwen3", "qwen3-moe", "phi2", "phi3", "gemma", "gemma2", "gemma3", "smollm3", "granite"),
    *("arcee", "seed-oss", "starcoder2", "stablelm2", "olmo2", "exaone4", "glm4", "command-r", "command-r7b"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_they_agree_on_every_family(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_gguf, "STEP_VALUES", 200)  # some rows at a time
    assert_agree(write_gguf(tmp_path / "model.gguf", write_family(tmp_path / "folder", name), parts=2))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_1", "Q5_K", "Q6_K", "IQ4_NL"])
def test_they_agree_on_types(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "folder", hidden=256, intermediate=256, layers=1, bias=True, tokenizer=False)
    stored = GGMLQuantizationType[kind]
    assert_agree(write_gguf(tmp_path / "model.gguf", folder, matrices_in(stored, stored)))


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"])
def test_they_agree_on_what_is_left_of_a_minimum(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "folder", hidden=256, intermediate=256, layers=1, tokenizer=False)
    path = write_gguf(tmp_path / "model.gguf", folder, matrices_in(GGMLQuantizationType[kind]))
    checkpoint = open_path(path)
    model = read_model(checkpoint.config)
    first, second = ModelTensors(checkpoint.tensors, model), SecondGguf(checkpoint.weight_files, model)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"):
        name = f"model.layers.0.{part}.weight"
        rests = [rows.rest for rows in first.packed(name) if rows.rest is not None]
        np.testing.assert_allclose(np.concatenate(list(second.shared(name))), np.concatenate(rests), atol=1e-7)
