"""What a precision costs, over engines that are not models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from common.engine.engine import Engine, Feed, FloatArray
from common.errors import Internal
from common.window import Geometry, SessionWindow
from sinkserve.evaluation.quality import compare, measure_quality
from tests.fakes.engine import FakeEngine, expected_logits
from tests.samples.streams import random_tokens
from tests.unit.sinkserve.evaluation.bench import VOCABULARY, FakeBench, Tracked

GEOMETRY = Geometry(2, 10, 4, 2)


class Shifted(FakeEngine):
    """Says of every other token what the fake says, louder."""

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        return super().step(feeds) * np.float32(1.1)


class Broken(FakeEngine):
    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        return super().step(feeds) * np.float32(np.nan)


class Bench(FakeBench):
    """The fake is the checkpoint; the engine is what `own` makes of it."""

    def __init__(self, own: type[FakeEngine]) -> None:
        super().__init__(GEOMETRY, lambda geometry: own(geometry, vocabulary=VOCABULARY))

    @contextmanager
    def in_fp32(self) -> Iterator[Engine]:
        yield FakeEngine(GEOMETRY, vocabulary=VOCABULARY)


def test_the_figures_are_those_of_the_definition() -> None:
    wanted = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    found = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]], np.float32)) + 3  # whatever is added to all
    first, second = compare(found, wanted, np.array([1, 0]))
    assert first == pytest.approx([math.log(0.5), math.log(0.25), 0.25 * math.log(2), 0], abs=1e-6)
    assert second == pytest.approx([math.log(0.1), math.log(0.1), 0, 1], abs=1e-6)


def test_an_engine_loses_nothing_against_itself() -> None:
    track = Tracked()
    found = measure_quality(Bench(FakeEngine), random_tokens(60, 64), track)
    assert (found.tokens, found.judged, found.cache_tokens) == (60, 59, 12)
    assert (found.loss.mean, found.divergence.mean, found.same_best.mean) == (0, 0, 1)
    assert found.perplexity == found.fp32_perplexity
    assert track.is_complete


def test_every_token_is_judged_as_a_session_hears_it() -> None:
    tokens, window = random_tokens(60, 64), SessionWindow(2, 10)
    found = measure_quality(Bench(Shifted), tokens, Tracked())
    said = np.stack([expected_logits(tokens[:end], window, VOCABULARY) for end in range(1, 60)])
    pairs = compare(said * np.float32(1.1), said, np.array(tokens[1:]))
    more = pairs[:, 1] - pairs[:, 0]
    assert found.perplexity == pytest.approx(math.exp(-pairs[:, 0].mean()))
    assert found.fp32_perplexity == pytest.approx(math.exp(-pairs[:, 1].mean()))
    assert found.loss.mean == pytest.approx(found.perplexity / found.fp32_perplexity - 1)
    assert found.loss.error == pytest.approx(math.exp(more.mean()) * more.std() / math.sqrt(59))
    assert found.divergence.mean == pytest.approx(pairs[:, 2].mean())
    assert found.same_best.mean == 1


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(Internal, match="not finite"):
        measure_quality(Bench(Broken), random_tokens(9, 64), Tracked())
