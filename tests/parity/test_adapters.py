"""What peft saves is merged as peft merges it: in every family, and with every choice of LoRA that is merged at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.adapter.adapter import open_adapter
from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model
from builder_service.model.tensors import ModelTensors
from builder_service.verify.second.adapter import SecondAdapter
from builder_service.verify.second.reading import SecondReading
from common.errors import InvalidArgument
from tests.samples.families import CONFIGS, write_family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.parity

CHOICES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"^model.layers.0.mlp.up_proj": 1, r".*\.o_proj": 64},
    },
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
    "dora": {"target_modules": "all-linear", "use_dora": True, "rank_pattern": {"down_proj": 2}},
    "biases": {"target_modules": ["q_proj", "o_proj"], "bias": "all"},
    "biases of the modules": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "whole modules": {"target_modules": ["down_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "up_proj"]},
    "some layers": {"target_modules": ["k_proj"], "layers_to_transform": [1], "fan_in_fan_out": True},
    "orthogonal": {"target_modules": ["k_proj"], "init_lora_weights": "orthogonal"},
}


def _trained(base: Path, folder: Path, **choices: Any) -> Path:
    """An adapter as after training, saved, and the folder of what peft merges it into."""
    kind = (
        transformers.AutoModelForImageTextToText
        if "text_config" in CONFIGS.get(base.name, {})
        else transformers.AutoModelForCausalLM
    )
    model = kind.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, **({"lora_alpha": 8} | choices)))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def _check(base: Path, folder: Path) -> None:
    """The build's reading and the second one are both what peft has merged."""
    adapter = open_adapter(folder / "adapter")
    model = read_model(open_checkpoint(base).config)
    ours = _tensors(AdaptedCheckpoint(open_checkpoint(base), adapter))
    second = SecondAdapter(SecondReading(base, model), folder / "adapter", model)
    plain, merged = _tensors(open_checkpoint(base)), _tensors(open_checkpoint(folder / "merged"))
    assert any((plain.tensor(name) != merged.tensor(name)).any() for name in plain.names)
    for name in merged.names:
        wanted = merged.tensor(name)
        np.testing.assert_allclose(ours.tensor(name), wanted, rtol=1e-5, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(second.tensor(name), wanted, rtol=1e-5, atol=2e-6, err_msg=name)


def _tensors(checkpoint: Checkpoint) -> ModelTensors:
    found = ModelTensors(checkpoint.tensors, read_model(checkpoint.config))
    found.check()
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_merged_as_peft_does(tmp_path: Path, choice: str) -> None:
    base = (
        write_family(tmp_path / "qwen2", "qwen2") if "biases" in choice else write_family(tmp_path / "llama", "llama")
    )
    _check(base, _trained(base, tmp_path, **CHOICES[choice]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"internlm2", "qwen3-moe"}))
def test_every_family_is(tmp_path: Path, name: str) -> None:
    base = write_family(tmp_path / name, name)
    sees = "text_config" in CONFIGS[name]  # and the checkpoint has the half that reads only
    _check(base, _trained(base, tmp_path, target_modules=r".*language_model.*_proj" if sees else "all-linear"))


@pytest.mark.filterwarnings("ignore")
def test_experts_in_one_tensor_are_refused_by_name(tmp_path: Path) -> None:
    folder = _trained(write_family(tmp_path / "base", "qwen3-moe"), tmp_path, target_modules="all-linear")
    with pytest.raises(InvalidArgument, match="target_parameters"):
        open_adapter(folder / "adapter")
