"""Engines from packed checkpoints: with the packed weights themselves, and in other precisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder_service.checkpoint.checkpoint import FloatArray
from builder_service.verify.second.packed import SecondPacked
from common.errors import FailedPrecondition
from common.spec.model_spec import Precision
from tests.nightly import LONG, one_in
from tests.samples.checkpoints import write_checkpoint
from tests.samples.packed.folders import pack_checkpoint
from tests.samples.packed.ways import WAYS, Way
from tests.unit.builder_service.pipeline.builds import built


def packed(tmp_path: Path, way: Way) -> Path:
    source = write_checkpoint(tmp_path / "source", hidden=64, layers=2, bias=True)
    return pack_checkpoint(source, tmp_path / "packed", way, tmp_path / "plain")


@pytest.mark.parametrize("name", ["awq", "gptq-8", "gptq-act-orders", "compressed"])
def test_weights_are_kept_as_they_are_unless_the_spec_says_otherwise(tmp_path: Path, name: str) -> None:
    manifest = built(packed(tmp_path, WAYS[name]))
    assert manifest.spec.precision is Precision.KEEP
    assert manifest.verification["margin"] >= 2


@pytest.mark.parametrize("precision", one_in(2, [Precision.FP32, Precision.INT4], LONG))
def test_in_other_precisions_it_is_what_its_weights_are_as_floats(tmp_path: Path, precision: Precision) -> None:
    folder = packed(tmp_path, WAYS["gptq-act-order"])
    one, other = (built(each, precision=precision) for each in (folder, tmp_path / "plain"))
    assert {file.digest for file in one.files} == {file.digest for file in other.files}
    assert any("precision: keep" in warning for warning in one.warnings)
    assert not any("precision: keep" in warning for warning in other.warnings)


class _Scaled(SecondPacked):
    """A reading that errs in one matrix."""

    def blocks(self, name: str) -> Iterator[FloatArray]:
        factor = 1.02 if name == "model.layers.1.mlp.down_proj.weight" else 1
        return (factor * block for block in super().blocks(name))


def test_a_wrong_scale_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder_service.pipeline.verify.SecondPacked", _Scaled)
    with pytest.raises(FailedPrecondition, match="feed-forward of layer 1"):
        built(packed(tmp_path, WAYS["gptq-act-orders"]), precision=Precision.KEEP)
