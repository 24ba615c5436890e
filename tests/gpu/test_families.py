"""Every family in every precision on a GPU, beside the CPU engine and the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.tensors import ModelTensors
from builder_service.model.weight_format import WeightFormat
from builder_service.verify.listen import hear
from builder_service.verify.verify import verify
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from tests.fakes.gpu import TensorRtEngine, build_tensorrt_engine
from tests.gpu.findings import FamilyRow, Findings
from tests.gpu.golden import Golden, compare, greedy
from tests.gpu.tolerances import TOLERANCES
from tests.samples.engines import build_engine
from tests.samples.families import ON_EVERY_TARGET, write_family
from tests.samples.streams import feed_all, random_tokens

pytestmark = pytest.mark.gpu

GEOMETRY = Geometry(4, 17, 8, slots=2)
WINDOW = SessionWindow(4, 17)
PROMPT, REPLY = 12, 4 * GEOMETRY.ring  # over four ends of the ring
SIZES = ([1], [8], [3, 1, 8, 2])


@dataclass(frozen=True)
class Families:
    """Checkpoints and what the CPU engine says to them, each made once."""

    folder: Path

    def checkpoint(self, name: str) -> Path:
        path = self.folder / name
        return path if path.exists() else write_family(path, name)

    @cache  # noqa: B019 - lives as long as the module's tests
    def golden(self, name: str) -> Golden:
        with closing(build_engine(self.checkpoint(name), GEOMETRY)) as engine:
            return greedy(engine, 0, WINDOW, random_tokens(PROMPT, engine.vocabulary_size), REPLY)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    return Families(tmp_path_factory.mktemp("families"))


@pytest.fixture
def row(findings: Findings, name: str, precision: Precision) -> FamilyRow:
    return findings.family(name, precision)


@pytest.fixture
def engine(families: Families, name: str, precision: Precision, row: FamilyRow) -> Iterator[TensorRtEngine]:
    with row.checked():
        made = build_tensorrt_engine(families.checkpoint(name), GEOMETRY, precision)
    yield made
    made.close()


every_family = pytest.mark.parametrize("name", ON_EVERY_TARGET)
every_precision = pytest.mark.parametrize("precision", list(TOLERANCES))


@every_family
@every_precision
def test_the_cpu_engines_tokens_are_the_gpus_too_within_the_precisions_tolerance(
    families: Families, name: str, engine: TensorRtEngine, row: FamilyRow
) -> None:
    golden = families.golden(name)
    with row.checked():
        row.error = row.gap = 0.0
        for slot, sizes in enumerate(SIZES):
            slot %= GEOMETRY.slots  # noqa: PLW2901 - there are two
            engine.clear(slot)
            closeness = compare(feed_all(engine, slot, WINDOW, golden.tokens, sizes), golden)
            row.error, row.gap = max(row.error, closeness.error), max(row.gap, closeness.gap)
            assert closeness.within(row.tolerance), (sizes, closeness)


@every_family
@every_precision
def test_the_float64_reference_says_the_same_as_the_gpu(
    families: Families, name: str, precision: Precision, engine: TensorRtEngine, row: FamilyRow
) -> None:
    checkpoint = open_checkpoint(families.checkpoint(name))
    model = read_model(checkpoint.config)
    with row.checked():
        rope, tensors = read_rope(model, GEOMETRY), ModelTensors(checkpoint.tensors, model)
        figures = verify(hear(engine), tensors, model, rope, WeightFormat(precision))
        row.verified, row.allowed = figures["divergence"], figures["allowed_divergence"]
        assert row.verified <= row.allowed
