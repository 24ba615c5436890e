"""VERIFY passes engines with keys and values of 8 bits as they ought to be, and stops others as elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.golden import GoldenRecorder
from builder_service.verify.listen import Evidence
from builder_service.verify.second.reading import SecondReading
from builder_service.verify.verify import verify
from common.engine.engine import FloatArray
from common.errors import FailedPrecondition
from common.golden.judgement import judge
from common.spec.model_spec import Precision
from common.window import Geometry
from tests.nightly import by_turns
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import gather
from tests.samples.families import write_family

GEOMETRY = Geometry(sinks=4, window=40, chunk=16, slots=3)
GEOMETRIES = (GEOMETRY, Geometry(0, 7, 5, slots=3), Geometry(1, 1, 1, slots=1))


class Louder(SecondReading):
    """A checkpoint one matrix of which is 2% larger than the engine's."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, read_model(open_checkpoint(folder).config))
        self._altered = name

    def blocks(self, name: str) -> Iterator[FloatArray]:
        for block in super().blocks(name):
            yield block * np.float32(1.02) if name == self._altered else block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden=64, tokenizer=False)


@cache
def evidence_of(folder: Path, precision: str, geometry: Geometry = GEOMETRY, *, narrow: bool = True) -> Evidence:
    return gather(folder, geometry, precision, narrow_cache=narrow)


def run(
    evidence: Evidence, folder: Path, precision: str, *, narrow: bool = True, altered: str = ""
) -> tuple[dict[str, float], float]:
    """The figures of VERIFY, and the margin of golden streams; a matrix `altered` is not what was built."""
    model = read_model(open_checkpoint(folder).config)
    weight_format, rope = WeightFormat(Precision(precision), narrow_cache=narrow), read_rope(model, GEOMETRY)
    reading, recorder = Louder(folder, altered), GoldenRecorder(evidence, model, weight_format)
    figures = verify(evidence, reading, model, rope, weight_format, lambda _: None, recorder)
    return figures, judge(recorder.written(), evidence.answers).margin


@pytest.mark.parametrize(("geometry", "precision"), by_turns(GEOMETRIES, ["fp32", "int8", "int4"]))
def test_a_right_engine_passes_with_a_margin_and_what_it_costs_is_told(
    folder: Path, geometry: Geometry, precision: str
) -> None:
    figures, golden = run(evidence_of(folder, precision, geometry), folder, precision)
    assert min(figures["margin"], golden) >= 2
    assert 0 < figures["lost_divergence"] < 0.5


@pytest.mark.parametrize(("family", "precision"), by_turns(["mpt", "gemma2", "pythia", "phi4-mini"], ["fp32", "int8"]))
def test_distances_caps_and_angles_of_a_part_of_a_head_pass(tmp_path: Path, family: str, precision: str) -> None:
    folder = write_family(tmp_path / family, family)
    figures, golden = run(evidence_of(folder, precision), folder, precision)
    assert min(figures["margin"], golden) >= 1.5


PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")


@pytest.mark.parametrize("name", [*(f"model.layers.1.{part}.weight" for part in PARTS), "lm_head.weight"])
def test_a_scale_that_is_off_by_two_percent_in_one_matrix_is_stopped(folder: Path, name: str) -> None:
    with pytest.raises(FailedPrecondition, match="logits" if "head" in name else "layer 1") as caught:
        run(evidence_of(folder, "fp32"), folder, "fp32", altered=name)
    assert float(caught.value.metadata["value"]) > 2 * float(caught.value.metadata["bound"])


@pytest.mark.parametrize("narrow", [False, True])
def test_what_was_to_be_of_8_bits_and_is_not_is_stopped_and_the_other_way_around(folder: Path, narrow: bool) -> None:
    with pytest.raises(FailedPrecondition, match="the error of the attention of layer 0"):
        run(evidence_of(folder, "fp32", narrow=not narrow), folder, "fp32", narrow=narrow)
