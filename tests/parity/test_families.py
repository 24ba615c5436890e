"""Every family's fp32 engine against Hugging Face's own model, while everything still fits the window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.window import Geometry, SessionWindow
from tests.samples.engines import build_engine
from tests.samples.families import CONFIGS, write_family
from tests.samples.streams import feed_all, random_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

LARGEST_RELATIVE_ERROR = 1e-4
TOKENS = {"mistral": 300, "phi3": 511}  # up to a sliding window of their own


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    count = TOKENS.get(name, 512)
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
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return np.asarray(model.eval()(torch.tensor(tokens)[None]).logits[0].numpy())
