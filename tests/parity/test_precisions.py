"""What int8 and int4 cost on the demo model: perplexity and divergence from fp32, on text that the model itself writes.

Text drawn from the fp32 engine at temperature 1 is exactly what that engine models best, so its perplexity there is a
floor, and what a precision adds to it is its own error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.engine.engine import Engine, Feed
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import copy_checkpoint
from tests.samples.engines import build_engine

pytestmark = pytest.mark.parity

MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"
GEOMETRY = Geometry(sinks=4, window=124, chunk=16, slots=8)
WINDOW = SessionWindow(4, 124)
TOKENS = 256  # in each of the slots: twice the cache
LARGEST_LOSS = {("int8", 32): 0.01, ("int4", 32): 0.02, ("int4", 128): 0.05}  # of perplexity, relative
"""By precision and block of int4."""


@pytest.mark.skipif(not (MODEL / "model.safetensors").exists(), reason="the demo model is not here")
def test_perplexity_of_quantized_engines_is_near_that_of_fp32(tmp_path: Path) -> None:
    folder = copy_checkpoint(MODEL, tmp_path / "model")
    engine = build_engine(folder, GEOMETRY)
    tokens, exact = _write_text(engine)
    engine.close()
    floor = _perplexity(exact, tokens)
    for (precision, block), bound in LARGEST_LOSS.items():
        engine = build_engine(folder, GEOMETRY, precision, int4_block=block)
        found = _read_text(engine, tokens)
        engine.close()
        loss = _perplexity(found, tokens) / floor - 1
        divergence = (np.exp(exact) * (exact - found)).sum(axis=-1).mean()
        print(f"{precision}/{block}: perplexity {floor:.4f} + {loss:.2%}, divergence {divergence:.1e}")  # noqa: T201 - stated
        assert abs(loss) < bound


def _write_text(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [time, slot] drawn from the engine, and its log-probabilities [time, slot, vocabulary] of what follows."""
    generator = np.random.default_rng(0)
    tokens = np.zeros((TOKENS, GEOMETRY.slots), np.int64)
    scores = []
    for position in range(TOKENS):
        scores.append(_step(engine, tokens[position], position))
        if position + 1 < TOKENS:
            noise = generator.gumbel(size=scores[-1].shape)
            tokens[position + 1] = (scores[-1] + noise).argmax(axis=-1)
    return tokens, np.array(scores)


def _read_text(engine: Engine, tokens: np.ndarray) -> np.ndarray:
    return np.array([_step(engine, tokens[position], position) for position in range(TOKENS)])


def _step(engine: Engine, tokens: np.ndarray, position: int) -> np.ndarray:
    """Log-probabilities [slot, vocabulary] after one token in every slot."""
    feeds = tuple(Feed(slot, position, WINDOW, (int(token),)) for slot, token in enumerate(tokens))
    logits = engine.step(feeds).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


def _perplexity(scores: np.ndarray, tokens: np.ndarray) -> float:
    following = np.take_along_axis(scores[:-1], tokens[1:, :, None], axis=-1)
    return float(np.exp(-following.mean()))
