"""Our fp32 engine against Hugging Face's dense model, while everything still fits the window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.engine.engine import Feed
from common.window import Geometry, SessionWindow, linear_run
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TOKENS = 512
GEOMETRY = Geometry(sinks=4, window=TOKENS - 4, chunk=64, slots=2)
LARGEST_RELATIVE_ERROR = 1e-4
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "linear_as_it_was_spelt": {"type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn_mscale": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 128,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 1.5, 3.0, 6.0],
        "factor": 4.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped_heads": {},
    "multi_head": {"kv_heads": 4},
    "one_kv_head": {"kv_heads": 1},
    "head_dim": {"head_dim": 24},
    "odd_group": {"hidden": 48, "heads": 6, "kv_heads": 2},
    "tied": {"tied": True},
    "biases": {"bias": True},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "sharded": {"shards": 3},
    "odd_sizes": {"intermediate": 77, "vocab": 391, "layers": 3},
    "theta": {"config": {"rope_theta": 500000.0}},
    "rope_parameters": {
        "config": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 250000.0}}
    },
    "rope_parameters_llama3": {
        "config": {"rope_theta": None, "rope_parameters": SCALINGS["llama3"] | {"rope_theta": 250000.0}}
    },
    "no_rope_fields": {"config": {"rope_theta": None}},
    "pretraining_tp": {"config": {"pretraining_tp": 2}},
    **{f"rope_{name}": {"rope_scaling": scaling} for name, scaling in SCALINGS.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    stretched = "linear" in name or "dynamic" in name
    overrides = {"max_position": TOKENS // 2 if stretched else TOKENS} | VARIANTS[name]
    folder = write_checkpoint(tmp_path / "model", **overrides)
    _drop_nulls(folder)
    tokens = np.random.default_rng(1).integers(0, overrides.get("vocab", 384), TOKENS)

    expected = _dense_logits(folder, tokens)
    positions, logits = _engine_logits(folder, tokens)

    assert positions[-1] == TOKENS - 1
    errors = np.abs(logits - expected[positions]).max(axis=1) / np.abs(expected[positions]).max(axis=1)
    print(f"{name}: largest relative error {errors.max():.1e}")  # noqa: T201 - the figure is the point
    assert errors.max() < LARGEST_RELATIVE_ERROR


def _drop_nulls(folder: Path) -> None:
    """What a variant sets to None is absent from its config.json."""
    path = folder / "config.json"
    fields = {name: value for name, value in json.loads(path.read_text()).items() if value is not None}
    path.write_text(json.dumps(fields))


def _dense_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor(tokens)[None]).logits[0].numpy())


def _engine_logits(folder: Path, tokens: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Positions after which the engine was asked, and its logits there."""
    engine = build_engine(folder, GEOMETRY)
    window = SessionWindow(GEOMETRY.sinks, GEOMETRY.window)
    positions, logits, position = [], [], 0
    while position < len(tokens):
        count = min(linear_run(GEOMETRY, window.sinks, position), len(tokens) - position)
        part = tuple(int(token) for token in tokens[position : position + count])
        logits.append(engine.step((Feed(1, position, window, part),))[0].copy())
        position += count
        positions.append(position - 1)
    engine.close()
    return positions, np.array(logits)
