"""Golden streams cross the ring's end in few steps, see only what was fed, and tell of right engines alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.golden import GoldenRecorder
from builder_service.verify.golden_streams import SIZES, as_reference, plan_golden
from builder_service.verify.listen import Evidence
from builder_service.verify.second.reading import SecondReading
from builder_service.verify.verify import verify
from common.errors import FailedPrecondition
from common.golden.golden import Golden
from common.golden.judgement import judge
from common.spec.model_spec import Precision
from common.window import Geometry, linear_run
from tests.samples.engines import gather
from tests.samples.families import write_family
from tests.samples.geometries import geometries

TEXTS = (range(100, 130), range(200, 230))
GEOMETRY = Geometry(4, 20, 8, slots=2)


@given(geometry=geometries())
def test_streams_see_nothing_that_was_not_fed_and_cross_the_rings_end(geometry: Geometry) -> None:
    for stream, text in zip(plan_golden(geometry, TEXTS), TEXTS, strict=True):
        assert stream.tokens == tuple(text[: len(stream.tokens)])
        assert len(stream.tokens) == stream.sinks + sum(SIZES[0])
        behind = [position - stream.sinks for position in stream.positions[stream.sinks :]]
        assert behind[0] // geometry.ring < behind[-1] // geometry.ring
        assert stream.kept < geometry.window
        fed: set[int] = set()
        for step in stream.steps:
            assert len(step.tokens) <= linear_run(geometry, stream.sinks, step.position)
            for position in range(step.position, step.position + len(step.tokens)):
                fed.add(position)
                seen = range(max(stream.sinks, position - step.window + 1), position + 1)
                assert set(seen) <= fed
                assert step.window <= geometry.window
        asked = as_reference(stream)
        assert [len(seen) for seen in asked.seen][stream.sinks :] == [
            stream.sinks + window for window in asked.windows[stream.sinks :]
        ]


def record(tmp_path: Path, family: str, precision: str) -> tuple[Golden, Evidence]:
    folder = write_family(tmp_path / family, family)
    model, evidence = read_model(open_checkpoint(folder).config), gather(folder, GEOMETRY, precision)
    recorder = GoldenRecorder(evidence, model, WeightFormat(Precision(precision)))
    reading, form = SecondReading(folder, model), WeightFormat(Precision(precision))
    verify(evidence, reading, model, read_rope(model, GEOMETRY), form, recorder=recorder)
    return recorder.written(), evidence


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("glm", "fp32"),
        ("mpt", "fp32"),
        ("gemma3", "int8"),
        ("pythia", "int4"),
        ("qwen3-moe", "int8"),
        ("llama", "int4"),
    ],
)
def test_the_reference_keeps_what_engines_keep(tmp_path: Path, family: str, precision: str) -> None:
    """Rotated keys, turned values, rows by column: bounds of another layout would be above 1, and not be told."""
    golden, evidence = record(tmp_path, family, precision)
    assert len(golden.row_tolerances) >= 2
    assert max(golden.row_tolerances.values()) < (2e-4 if precision == "fp32" else 0.5)
    assert judge(golden, evidence.answers).margin >= 4
    assert len(golden.to_bytes()) < 80_000


def test_an_engine_that_says_otherwise_in_its_golden_streams_is_not_published(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "llama", "llama")
    model, evidence = read_model(open_checkpoint(folder).config), gather(folder, GEOMETRY)
    first, second = evidence.answers
    loud = replace(second, logits=tuple(2 * np.roll(logits, 1) for logits in second.logits))
    recorder = GoldenRecorder(replace(evidence, answers=(first, loud)), model, WeightFormat(Precision.FP32))
    reading, form = SecondReading(folder, model), WeightFormat(Precision.FP32)
    verify(evidence, reading, model, read_rope(model, GEOMETRY), form, recorder=recorder)
    with pytest.raises(FailedPrecondition, match="divergence of its predictions in golden streams"):
        recorder.written()
