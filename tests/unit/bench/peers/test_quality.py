"""Readers of the same text are compared piece by piece, each with the reference."""

import numpy as np
import pytest

from bench.peers.engines.ours_file import reading
from bench.peers.quality import PIECE, measure, nearness
from common.engine.engine import FloatArray
from common.window import Geometry, SessionWindow
from tests.fakes.engine import FakeEngine, expected_logits


def _louder(piece: list[int]) -> FloatArray:
    return _said(piece) * np.float32(1.1)


def _said(piece: list[int]) -> FloatArray:
    return np.stack([np.sin(np.arange(64, dtype=np.float32) * (token + 1)) for token in piece])


def test_who_says_the_same_loses_nothing_and_another_does() -> None:
    tokens = [(7 * index) % 64 for index in range(PIECE + 40)]
    rows, perplexity, near = measure(_said, {"same": _said, "louder": _louder}, tokens)
    same, louder = rows
    assert (same.loss.mean, same.divergence.mean, same.same_best.mean) == (0, 0, 1)
    assert same.perplexity == pytest.approx(perplexity)
    assert louder.divergence.mean > 1e-4
    assert louder.same_best.mean == 1
    assert near is None
    _, _, near = measure(_said, {"ours keep": _louder, "llama.cpp the file": _said}, tokens)
    assert near is not None
    assert near.largest == pytest.approx(0.1, rel=1e-3)
    assert nearness(_said([3]), _said([3])).divergence == 0


def test_an_engine_reads_every_piece_from_an_empty_cache() -> None:
    read = reading(FakeEngine(Geometry(2, 30, 8, 2)))
    for piece in ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [4, 5]):
        found = read(piece)
        for index, logits in enumerate(found):
            assert np.array_equal(logits, expected_logits(piece[: index + 1], SessionWindow(2, 30)))
