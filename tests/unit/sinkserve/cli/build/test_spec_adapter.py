"""A spec with an adapter is written and checked as one without."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.spec.model_spec import Precision, Source
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.app import make_app
from tests.samples.adapters.folders import matrices_of, write_adapter
from tests.samples.checkpoints import write_checkpoint
from tests.samples.packed.folders import pack_checkpoint
from tests.samples.packed.ways import WAYS


def sinkserve(*args: str) -> Result:
    return CliRunner().invoke(make_app(args), args, env={"COLUMNS": "300"})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def test_it_is_written_beside_its_checkpoint_and_checked_with_it(base: Path, tmp_path: Path) -> None:
    adapter, spec = write_adapter(tmp_path / "tuned", matrices_of(base)), tmp_path / "spec.yaml"
    ran = sinkserve("spec", "init", str(base), "--adapter", str(adapter), "-o", str(spec))
    assert ran.exit_code == 0, ran.output
    assert "source: {uri: ./model, adapter: ./tuned}" in spec.read_text()
    read = read_spec_file(spec)
    assert (read.name, read.source) == ("model-tuned", Source(uri=str(base), adapter=str(adapter)))
    ran = sinkserve("spec", "check", str(spec))
    assert ran.exit_code == 0, ran.output
    assert f"{base} + adapter {adapter}" in ran.stdout


def test_one_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    adapter, spec = write_adapter(tmp_path / "tuned", {"model.layers.0.mlp.up_proj": (9, 9)}), tmp_path / "spec.yaml"
    spec.write_text(f"name: a\nsource: {{uri: {base}, adapter: {adapter}}}\ncache: {{window_tokens: 60}}\n")
    ran = sinkserve("spec", "check", str(spec))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "the adapter changes model.layers.0.mlp.up_proj.weight as one of shape [9, 9]" in ran.stderr


def test_few_bits_are_not_kept_where_an_adapter_changes_them(tmp_path: Path) -> None:
    base = pack_checkpoint(
        write_checkpoint(tmp_path / "source", hidden=128), tmp_path / "packed", WAYS["awq"], tmp_path / "plain"
    )
    adapter, spec = write_adapter(tmp_path / "tuned", matrices_of(tmp_path / "plain")), tmp_path / "spec.yaml"
    ran = sinkserve("spec", "init", str(base), "--adapter", str(adapter), "-o", str(spec))
    assert ran.exit_code == 0, ran.output
    assert read_spec_file(spec).precision is not Precision.KEEP
