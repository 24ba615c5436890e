"""`spec check` finds what a build would find before it reads weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from sinkserve.cli.app import make_app
from tests.samples.checkpoints import write_checkpoint


def check(folder: Path) -> Result:
    """Check a spec for the folder."""
    spec = folder.parent / "spec.yaml"
    spec.write_text(f"name: a\nsource: {{uri: {folder}}}\ncache: {{sink_tokens: 4, window_tokens: 60}}\n")
    args = ["spec", "check", str(spec)]
    return CliRunner().invoke(make_app(args), args)


def _spoil_tensor(folder: Path) -> None:
    save_file({"model.norm.weight": np.ones(3, np.float32)}, folder / "model.safetensors")


def _spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def _spoil_generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_k": "many"}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_spoil_tensor, "model.embed_tokens.weight is missing"),
        (_spoil_tokenizer, "tokenizer.json cannot be read"),
        (_spoil_generation, "top_k = 'many'"),
    ],
)
def test_it_reads_all_that_the_builder_reads_before_the_weights(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = write_checkpoint(tmp_path / "a")
    spoil(folder)
    ran = check(folder)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert said in " ".join(ran.stderr.split())


def test_it_says_what_the_build_would_warn_of(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", chat_template=False)
    (folder / "generation_config.json").write_text('{"num_beams": 4}')
    ran = check(folder)
    assert ran.exit_code == 0
    warned = " ".join(ran.stderr.split())
    assert "warning: the checkpoint has no chat template" in warned
    assert "num_beams = 4, which is not honoured here" in warned
