"""Pickled weights are refused, with the command that converts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument
from tests.samples.checkpoints import write_checkpoint


def test_pickled_weights_are_refused_saying_that_only_safetensors_is_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidArgument, match=r"pytorch_model\.bin.*only safetensors is read"):
        open_checkpoint(folder)


_TORCH = """
import pickle

class Tensor:
    def __init__(self, number): self.number = number
    def contiguous(self): return self
    def clone(self): return self

def load(file, map_location, weights_only):
    assert (map_location, weights_only) == ("cpu", True)
    with open(file) as opened:
        return {name: Tensor(name) for name in opened.read().split()}
"""
_SAFETENSORS = """
def save_file(tensors, file, metadata):
    with open(file, "w") as opened:
        opened.write(" ".join([*tensors, *map("=".join, metadata.items())]))
"""


def test_the_command_that_converts_pickled_weights_runs_in_a_shell(tmp_path: Path) -> None:
    """With what only looks like torch: that it converts is for `make parity` to show."""
    folder = write_checkpoint(tmp_path / 'it\'s a "model"', shards=1)
    (folder / "model.safetensors").unlink()
    for number, names in enumerate(("a b", "c")):
        (folder / f"pytorch_model-0000{number}-of-00002.bin").write_text(names)
    (folder / "training_args.bin").write_text("not weights")
    for name, text in {
        "torch/__init__.py": _TORCH,
        "safetensors/__init__.py": "",
        "safetensors/torch.py": _SAFETENSORS,
    }.items():
        (tmp_path / "fakes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fakes" / name).write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        open_checkpoint(folder)
    command = caught.value.message.partition("with torch and safetensors: ")[2]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "fakes"), "PATH": path}
    subprocess.run(["sh", "-c", command], env=environment, check=True)
    assert (folder / "model.safetensors").read_text() == "a b c format=pt"
