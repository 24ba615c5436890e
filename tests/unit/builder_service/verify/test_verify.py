"""VERIFY passes engines that are right and stops those that are wrong in the ways engines go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.verify import TOLERANCES, Tolerance, allow, check, compare, plan_streams, verify
from common.engine.engine import Feed, FloatArray
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.geometries import geometries

GEOMETRY = Geometry(sinks=4, window=40, chunk=16, slots=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, tokenizer=False)


def run(
    engine: OnnxRuntimeEngine,
    folder: Path,
    geometry: Geometry,
    precision: str,
    progress: Callable[[float], None] = lambda _: None,
    *,
    int4_block: int = 32,
) -> dict[str, float]:
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    rope, tensors = read_rope(model, geometry), ModelTensors(checkpoint.tensors, model)
    return verify(engine, tensors, model, rope, geometry, WeightFormat(Precision(precision), int4_block), progress)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "geometry",
    [
        GEOMETRY,
        Geometry(4, 40, 16, slots=1),
        Geometry(4, 40, 16, slots=2),
        Geometry(0, 7, 5, slots=3),
        Geometry(32, 100, 64, slots=2),
        Geometry(1, 1, 1, slots=1),
    ],
)
def test_a_right_engine_passes_well_within_the_bounds(folder: Path, geometry: Geometry, precision: str) -> None:
    target = Target.TENSORRT if precision in PRECISIONS[Target.TENSORRT] else Target.ONNXRUNTIME
    engine = build_engine(folder, geometry, precision, target=target)
    figures = run(engine, folder, geometry, precision)
    tolerance = TOLERANCES[Precision(precision)]
    assert figures["relative_error_mean"] <= tolerance.mean / 2
    assert figures["relative_error_largest"] <= tolerance.largest / 2
    assert figures["allowed_error_mean"] <= 2 * tolerance.mean  # the model is calm: the bound is about the least
    assert figures["compared_tokens"] >= 20
    assert figures["same_best_token"] >= 0.9
    engine.close()


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_passes_in_its_own_blocks_and_is_stopped_in_others(folder: Path, block: int) -> None:
    engine = build_engine(folder, GEOMETRY, "int4", int4_block=block)
    figures = run(engine, folder, GEOMETRY, "int4", int4_block=block)
    assert figures["relative_error_mean"] <= TOLERANCES[Precision.INT4].mean / 2
    for other in {32, 64, 128} - {block}:
        with pytest.raises(FailedPrecondition, match="the engine's logits are not the model's"):
            run(engine, folder, GEOMETRY, "int4", int4_block=other)
    engine.close()


class Faulty(OnnxRuntimeEngine):
    """An engine whose planner errs: `fault` changes every feed on its way."""

    fault: Callable[[Feed], Feed]

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        return super().step(tuple(type(self).fault(feed) for feed in feeds))


def narrower(feed: Feed) -> Feed:
    return replace(feed, window=SessionWindow(feed.window.sinks, max(1, feed.window.window - 1)))


def fewer_sinks_seen(feed: Feed) -> Feed:
    """Sinks are still where they were, one of them is not seen."""
    return feed if feed.position < 4 else replace(feed, window=SessionWindow(feed.window.sinks, 1))


def wrong_token(feed: Feed) -> Feed:
    return replace(feed, tokens=tuple(token ^ 1 for token in feed.tokens))


@pytest.mark.parametrize("fault", [narrower, fewer_sinks_seen, wrong_token])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_wrong_planner_is_stopped(
    folder: Path, precision: str, fault: Callable[[Feed], Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_engine(folder, GEOMETRY, precision)
    monkeypatch.setattr(Faulty, "fault", staticmethod(fault), raising=False)
    monkeypatch.setattr(engine, "__class__", Faulty)
    with pytest.raises(FailedPrecondition, match=r"relative_error_mean is [\d.]+ .* at most [\de.-]+ is") as caught:
        run(engine, folder, GEOMETRY, precision)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert float(caught.value.metadata["value"]) > float(caught.value.metadata["bound"])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_one_wrong_matrix_is_stopped(folder: Path, tmp_path: Path, precision: str) -> None:
    """The engine of one checkpoint, and the reference of another that differs in one layer's queries."""
    other = write_checkpoint(tmp_path, hidden=64, tokenizer=False)
    engine = build_engine(other, GEOMETRY, precision)
    model = read_model(open_checkpoint(folder).config)
    turned = ModelTensors(open_checkpoint(folder).tensors, model)
    wrong = "model.layers.1.self_attn.q_proj.weight"
    blocks = turned.blocks
    turned.blocks = lambda name: (b[::-1] if name == wrong else b for b in blocks(name))  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition) as caught:
        verify(engine, turned, model, read_rope(model, GEOMETRY), GEOMETRY, WeightFormat(Precision(precision)))
    assert caught.value.reason is Reason.VERIFICATION_FAILED


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_frequencies_that_are_off_by_two_percent_are_stopped(folder: Path, precision: str) -> None:
    engine = build_engine(folder, GEOMETRY, precision)
    checkpoint = open_checkpoint(folder)
    model = read_model(checkpoint.config)
    rope = read_rope(model, GEOMETRY)
    wrong = rope.model_copy(update={"inverse_frequencies": tuple(f * 1.02 for f in rope.inverse_frequencies)})
    with pytest.raises(FailedPrecondition):
        tensors, weight_format = ModelTensors(checkpoint.tensors, model), WeightFormat(Precision(precision))
        verify(engine, tensors, model, wrong, GEOMETRY, weight_format)


def noise(largest: float, mean: float) -> dict[str, float]:
    return {"relative_error_largest": largest, "relative_error_mean": mean}


def test_a_model_that_makes_much_of_noise_is_allowed_more_but_never_anything() -> None:
    least = Tolerance(largest=0.1, mean=0.02)
    assert allow(least, noise(0.001, 0.0001)) == least
    assert allow(least, noise(0.125, 0.0625)) == Tolerance(0.25, 0.125)
    assert allow(least, noise(0.9, 0.8)) == Tolerance(0.7, 0.7)


def test_logits_that_are_not_finite_are_stopped() -> None:
    figures = compare([(np.array([np.nan, 1.0], np.float32), np.array([1.0, 2.0]))])
    with pytest.raises(FailedPrecondition, match="inf"):
        check(figures, Tolerance(1.0, 1.0))


def test_errors_are_relative_to_the_largest_logit_of_their_token() -> None:
    want = np.array([1.0, -4.0])
    figures = compare([(np.array([1.5, -4.0], np.float32), want), (np.array([1.0, -4.0], np.float32), want)])
    assert figures["relative_error_largest"] == pytest.approx(0.125)
    assert figures["relative_error_mean"] == pytest.approx(0.0625)
    assert figures["compared_tokens"] == 2
    assert figures["same_best_token"] == 1


@pytest.mark.parametrize(("largest", "mean", "named"), [(0.1, 0.01, "mean"), (0.01, 0.1, "largest")])
def test_each_bound_stops_by_itself(largest: float, mean: float, named: str) -> None:
    figures = {"relative_error_largest": 0.05, "relative_error_mean": 0.05, "compared_tokens": 1.0}
    with pytest.raises(FailedPrecondition, match=f"relative_error_{named} is 0.05"):
        check(figures, Tolerance(largest, mean))


@given(geometry=geometries())
def test_streams_cross_the_rings_end_soon_after_they_jump(geometry: Geometry) -> None:
    for stream in plan_streams(geometry, 384):
        assert list(stream.positions) == sorted(set(stream.positions))
        after = stream.positions[min(stream.sinks, 8) :]
        assert (after[0] + 5 - stream.sinks) % geometry.ring == 0
        assert len(after) >= 24
        assert stream.sinks <= geometry.sinks
        assert 1 <= stream.window <= geometry.window
        assert all(0 <= token < 384 for token in stream.tokens)


def test_slots_are_left_clear_and_progress_ends_at_one(folder: Path) -> None:
    engine = build_engine(folder, GEOMETRY)
    shares: list[float] = []
    run(engine, folder, GEOMETRY, "fp32", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    fresh = build_engine(folder, GEOMETRY)
    for slot in range(GEOMETRY.slots):
        feed = Feed(slot, 30, SessionWindow(4, 40), (3,))  # sees a window of rows that nobody has fed
        np.testing.assert_array_equal(engine.step((feed,)), fresh.step((feed,)))
