"""VERIFY passes engines that are right and stops those that are wrong in the ways engines go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.graph.engine_weights import EngineWeights, StoredRows
from builder_service.model import turned_tensors
from builder_service.model.basis import Basis, Number, mixing
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.listen import Evidence, hear
from builder_service.verify.second.reading import SecondReading
from builder_service.verify.verify import verify
from common.engine.engine import Feed, FloatArray
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.errors import FailedPrecondition, Reason
from common.spec.model_spec import PRECISIONS, Precision, Target
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine, gather

GEOMETRY = Geometry(sinks=4, window=40, chunk=16, slots=3)
EVERY = ["fp32", "int8", "int4"]
NOT_THE_MODEL = "the engine is not the checkpoint's model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, tokenizer=False)


@cache
def evidence_of(folder: Path, precision: str, geometry: Geometry = GEOMETRY, *, int4_block: int = 32) -> Evidence:
    return gather(folder, geometry, precision, int4_block=int4_block)


def run(
    evidence: Evidence,
    folder: Path,
    precision: str,
    progress: Callable[[float], None] = lambda _: None,
    *,
    tensors: SecondReading | None = None,
    stretch: float = 1.0,
    int4_block: int = 32,
) -> dict[str, float]:
    """VERIFY against the checkpoint in `folder`; `stretch` makes its frequencies wrong."""
    model = read_model(open_checkpoint(folder).config)
    rope = read_rope(model, GEOMETRY)
    rope = rope.model_copy(update={"inverse_frequencies": tuple(stretch * f for f in rope.inverse_frequencies)})
    reading = tensors or SecondReading(folder, model)
    return verify(evidence, reading, model, rope, WeightFormat(Precision(precision), int4_block), progress)


@pytest.mark.parametrize("precision", EVERY)
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
def test_a_right_engine_passes_with_a_margin(folder: Path, geometry: Geometry, precision: str) -> None:
    figures = run(evidence_of(folder, precision, geometry), folder, precision)
    assert figures["margin"] >= (2 if precision == "int4" else 3)  # in matrices as small as these, chance counts
    judged = [name for name in figures if f"allowed_{name}" in figures]
    assert ("weight_gain" in judged) == (precision != "fp32")
    margins = [figures[f"allowed_{name}"] / max(figures[name], 1e-30) for name in judged]
    assert figures["margin"] == pytest.approx(min(margins), rel=1e-4)


@pytest.mark.parametrize(("precision", "block"), [("int8", 32), ("int4", 32), ("int4", 64), ("fp8", 32)])
def test_the_stand_in_of_a_gpu_passes_in_few_bits_and_with_weights_of_another_model_it_does_not(
    folder: Path, tmp_path: Path, precision: str, block: int
) -> None:
    model = read_model(open_checkpoint(folder).config)
    form = WeightFormat(Precision(precision), block, on_gpu=True)
    evidence = gather(folder, GEOMETRY, precision, Target.TENSORRT, int4_block=block)
    rope = read_rope(model, GEOMETRY)
    figures = verify(evidence, SecondReading(folder, model), model, rope, form)
    assert figures["margin"] >= 1.5
    assert 0 < figures["lost_divergence"] < 0.5
    other = write_checkpoint(tmp_path, hidden=64, tokenizer=False, seed=1)
    with pytest.raises(FailedPrecondition, match=f"{NOT_THE_MODEL} in {precision}: the error of scales of"):
        verify(evidence, SecondReading(other, model), model, rope, form)


def test_what_a_precision_costs_is_told(folder: Path) -> None:
    lost = {precision: run(evidence_of(folder, precision), folder, precision) for precision in EVERY}
    assert "lost_divergence" not in lost["fp32"]
    assert 0 < lost["int8"]["lost_divergence"] < lost["int4"]["lost_divergence"] < 0.5
    for precision in ("int8", "int4"):
        figures = lost[precision]
        assert figures["lost_perplexity"] == pytest.approx(np.expm1(figures["lost_divergence"]), rel=1e-5)
        assert 0.5 < figures["same_best_token"] <= 1
        assert figures["lost_tokens"] == sum(len(one.tokens) for one in evidence_of(folder, precision).heard)


def test_a_basis_that_is_not_orthogonal_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference that rounds turns the model as the engine's builder does, and so would not see it."""

    class Wrong(Basis):
        def turn(self, rows: npt.NDArray[Number]) -> npt.NDArray[Number]:
            return super().turn(rows * np.where(np.arange(rows.shape[-1]) % 2, 3, 1).astype(rows.dtype))

    monkeypatch.setattr(turned_tensors, "mixing", lambda width: Wrong(*vars(mixing(width)).values()))
    folder = write_checkpoint(tmp_path, hidden=64, tokenizer=False)
    evidence = gather(folder, GEOMETRY, "int8")
    with pytest.raises(FailedPrecondition, match="divergence from the checkpoint's own weights"):
        run(evidence, folder, "int8")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_stands_in_for_a_gpu_passes_by_what_it_says(folder: Path, precision: str) -> None:
    assert Precision(precision) in PRECISIONS[Target.TENSORRT]
    with closing(build_engine(folder, GEOMETRY, precision, target=Target.TENSORRT)) as engine:
        figures = run(hear(engine), folder, precision)
    assert figures["margin"] >= 3
    assert "part_error" not in figures


@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_passes_in_its_own_blocks_and_is_stopped_in_others(folder: Path, block: int) -> None:
    evidence = evidence_of(folder, "int4", int4_block=block)
    assert run(evidence, folder, "int4", int4_block=block)["margin"] >= 1.5
    for other in {32, 64, 128} - {block}:
        with pytest.raises(FailedPrecondition, match=NOT_THE_MODEL):
            run(evidence, folder, "int4", int4_block=other)


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
@pytest.mark.parametrize("precision", EVERY)
def test_a_wrong_planner_is_stopped(
    folder: Path, precision: str, fault: Callable[[Feed], Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "fault", staticmethod(fault), raising=False)
    engine = build_engine(folder, GEOMETRY, precision)
    monkeypatch.setattr(engine, "__class__", Faulty)
    with closing(engine), pytest.raises(FailedPrecondition, match=NOT_THE_MODEL) as caught:
        run(hear(engine), folder, precision)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert float(caught.value.metadata["value"]) > float(caught.value.metadata["bound"])


class Altered(SecondReading):
    """A checkpoint that differs from the engine's in one tensor, or an engine from its checkpoint."""

    def __init__(self, folder: Path, name: str, change: Callable[[FloatArray], FloatArray]) -> None:
        super().__init__(folder, read_model(open_checkpoint(folder).config))
        self._altered, self._change = name, change

    def blocks(self, name: str) -> Iterator[FloatArray]:
        for block in super().blocks(name):
            yield self._change(block) if name == self._altered else block


def louder(rows: FloatArray) -> FloatArray:
    return rows * np.float32(1.02)


def swapped_heads(rows: FloatArray) -> FloatArray:
    first, second, *others = np.split(rows, len(rows) // 16)
    return np.concatenate([second, first, *others])


MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
LOUDER = [*(f"model.layers.1.{name}.weight" for name in (*MATRICES, "mlp.down_proj")), "lm_head.weight"]


@pytest.mark.parametrize("precision", EVERY)
@pytest.mark.parametrize("name", LOUDER)
def test_a_scale_that_is_off_by_two_percent_in_one_matrix_is_stopped(folder: Path, precision: str, name: str) -> None:
    with pytest.raises(FailedPrecondition, match=NOT_THE_MODEL) as caught:
        run(evidence_of(folder, precision), folder, precision, tensors=Altered(folder, name, louder))
    part = "logits" if "head" in name else "layer 1"
    assert (part if precision == "fp32" else f"the error of scales of {name}") in caught.value.message
    assert float(caught.value.metadata["value"]) > 2 * float(caught.value.metadata["bound"])


def a_head_larger(rows: StoredRows) -> StoredRows:
    return replace(rows, scales=rows.scales * np.where(np.arange(len(rows.scales)) < 16, 1.02, 1)[:, None, None])


FAULTS: dict[str, Callable[[StoredRows], StoredRows]] = {
    "scales, all": lambda rows: replace(rows, scales=rows.scales * 1.02),
    "scales, of a head": a_head_larger,
    "scales, of the next row": lambda rows: replace(rows, scales=np.roll(rows.scales, 1, axis=0)),
    "zero points": lambda rows: replace(rows, values=replace(rows.values, zeros=rows.values.zeros + 1)),
}


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["q_proj", "v_proj"])  # in int4 the one has 4 bits, the other 8
@pytest.mark.parametrize("fault", FAULTS)
def test_matrices_that_were_stored_otherwise_are_stopped(
    folder: Path, precision: str, name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, stored = f"model.layers.0.self_attn.{name}.weight", EngineWeights.stored
    kept, (what, *_) = {tensor: FAULTS[fault]}, fault.split(",")
    monkeypatch.setattr(EngineWeights, "stored", lambda self, name: map(kept.get(name, replace), stored(self, name)))
    with pytest.raises(FailedPrecondition, match=f"the error of {what} of {tensor}") as caught:
        run(evidence_of(folder, precision), folder, precision)
    assert float(caught.value.metadata["value"]) > 2 * float(caught.value.metadata["bound"])


@pytest.mark.parametrize("precision", EVERY)
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize("change", [swapped_heads, np.flipud])
def test_heads_in_another_order_in_one_layer_are_stopped(
    folder: Path, precision: str, name: str, change: Callable[[FloatArray], FloatArray]
) -> None:
    tensor = f"model.layers.1.self_attn.{name}.weight"
    altered, wrong = Altered(folder, tensor, change), f"the error of (scales|zero points) of {tensor}"
    with pytest.raises(FailedPrecondition, match=wrong if precision != "fp32" else "attention of layer 1"):
        run(evidence_of(folder, precision), folder, precision, tensors=altered)


@pytest.mark.parametrize("precision", EVERY)
def test_frequencies_that_are_off_by_two_percent_are_stopped(folder: Path, precision: str) -> None:
    with pytest.raises(FailedPrecondition, match=NOT_THE_MODEL):
        run(evidence_of(folder, precision), folder, precision, stretch=1.02)


@pytest.mark.parametrize("precision", EVERY)
def test_one_stale_shard_is_stopped(tmp_path: Path, precision: str) -> None:
    """One of three, written anew since the engine was made; the other two are as they were."""
    shape = {"hidden": 64, "shards": 3, "tokenizer": False}
    old = write_checkpoint(tmp_path / "old", **shape)  # type: ignore[arg-type]
    new = write_checkpoint(tmp_path / "new", **shape, seed=1)  # type: ignore[arg-type]
    shard = "model-00002-of-00003.safetensors"
    evidence = gather(old, GEOMETRY, precision)
    assert run(evidence, old, precision)["margin"] >= 1.5
    (new / shard).replace(old / shard)
    with pytest.raises(FailedPrecondition, match=NOT_THE_MODEL):
        run(evidence, old, precision)


def test_logits_that_are_not_finite_are_stopped(folder: Path) -> None:
    evidence = evidence_of(folder, "fp32")
    heard = replace(evidence.heard[0], logits=np.full_like(evidence.heard[0].logits, np.nan))
    with pytest.raises(FailedPrecondition, match="divergence of its predictions is inf"):
        run(replace(evidence, heard=(heard, *evidence.heard[1:])), folder, "fp32")


def test_slots_are_left_clear_and_progress_ends_at_one(folder: Path) -> None:
    shares: list[float] = []
    run(evidence_of(folder, "fp32"), folder, "fp32", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with closing(build_engine(folder, GEOMETRY)) as engine, closing(build_engine(folder, GEOMETRY)) as fresh:
        hear(engine)
        for slot in range(GEOMETRY.slots):
            feed = Feed(slot, 30, SessionWindow(4, 40), (3,))  # sees a window of rows that nobody has fed
            np.testing.assert_array_equal(engine.step((feed,)), fresh.step((feed,)))
