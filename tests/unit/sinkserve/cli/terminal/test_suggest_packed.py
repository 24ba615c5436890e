"""A spec that suits a packed checkpoint: with its own weights, also where those are elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.checkpoint.folder import FolderCheckpoint
from common.spec.model_spec import Precision, Source, Target
from sinkserve.cli.terminal.suggest import SpecChoices, read_needs, source_of, suggest_spec
from tests.samples.checkpoints import write_checkpoint
from tests.samples.packed.folders import pack_checkpoint
from tests.samples.packed.ways import WAYS


def test_packed_weights_are_kept_and_estimated_where_they_are_not_fetched(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", hidden=128, layers=2, tokenizer=False)
    folder = pack_checkpoint(source, tmp_path / "packed", WAYS["awq"], tmp_path / "plain")
    spec = suggest_spec(FolderCheckpoint(folder), source_of(folder), SpecChoices()).spec
    assert spec.precision is Precision.KEEP
    assert suggest_spec(FolderCheckpoint(folder), source_of(folder), SpecChoices(target=Target.TENSORRT)).spec != spec
    exactly = read_needs(FolderCheckpoint(folder), spec)[1].weight_bytes
    (folder / "model.safetensors").unlink()
    elsewhere = spec.model_copy(update={"source": Source(uri="hf://org/model")})
    about = read_needs(FolderCheckpoint(folder), elsewhere)[1].weight_bytes
    assert about == pytest.approx(exactly, rel=0.3)
