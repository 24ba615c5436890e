from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from builder_service.checkpoint import files as checkpoint_files
from builder_service.checkpoint import safetensors as module
from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument, NotFound, Reason, SinkServeError
from tests.samples import not_files
from tests.samples.checkpoints import write_checkpoint

NAME = "model.layers.1.mlp.up_proj.weight"


def _folder(folder: Path, tensors: dict[str, Any], config: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _raw(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_storage_type_is_read_as_the_same_numbers(tmp_path: Path, dtype: Any) -> None:
    stored = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    checkpoint = open_checkpoint(_folder(tmp_path / "c", {"a": stored}))
    values = checkpoint.tensors.tensor("a")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, stored.astype(np.float32))
    assert checkpoint.tensors.shape("a") == (5, 7)


def test_extreme_bfloat16_values_keep_their_bits(tmp_path: Path) -> None:
    stored = np.array([0.0, -0.0, 1e-40, -3.3e38, 1.0], ml_dtypes.bfloat16)
    values = open_checkpoint(_folder(tmp_path / "c", {"a": stored})).tensors.tensor("a")
    np.testing.assert_array_equal(values, stored.astype(np.float32))
    assert np.signbit(values[1])


def test_blocks_hold_all_rows_in_order_and_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.arange(70, dtype=np.float32).reshape(10, 7)
    checkpoint = open_checkpoint(_folder(tmp_path / "c", {"a": stored}))
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * 7 * 4 + 1)
    blocks = list(checkpoint.tensors.blocks("a"))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), stored)


def test_a_row_larger_than_a_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(_folder(tmp_path / "c", {"a": np.ones((2, 9), np.float32)}))
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert [block.shape for block in checkpoint.tensors.blocks("a")] == [(1, 9), (1, 9)]


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    one, three = (open_checkpoint(write_checkpoint(tmp_path / str(count), shards=count)).tensors for count in (1, 3))
    assert one.names == three.names
    for name in one.names:
        np.testing.assert_array_equal(one.tensor(name), three.tensor(name))


def test_files_are_those_that_were_read(tmp_path: Path) -> None:
    sharded = open_checkpoint(write_checkpoint(tmp_path / "c", shards=2))
    assert [path.name for path in sharded.files] == [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_generation_config_is_empty_where_there_is_none(tmp_path: Path) -> None:
    assert open_checkpoint(_folder(tmp_path / "c", {"a": np.ones(1, np.float32)})).generation_config == {}


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _index(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


BROKEN: dict[str, tuple[Callable[[Path], object], Reason, str]] = {
    "no config": (_remove("config.json"), Reason.SOURCE_NOT_FOUND, "config.json"),
    "no weights": (_remove("model.safetensors"), Reason.SOURCE_NOT_FOUND, "model.safetensors.index.json"),
    "cut off": (_truncate, Reason.CHECKPOINT_INVALID, "model.safetensors is cut off"),
    "config is not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        Reason.CHECKPOINT_INVALID,
        "config.json does not hold valid JSON",
    ),
    "config is not text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        Reason.CHECKPOINT_INVALID,
        "config.json",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        Reason.CHECKPOINT_INVALID,
        "config.json holds JSON that is not an object",
    ),
    "index without map": (_index("{}"), Reason.CHECKPOINT_INVALID, "weight_map"),
    "index names nothing": (
        _index('{"weight_map": {"a": "gone.safetensors"}}'),
        Reason.SOURCE_NOT_FOUND,
        "gone.safetensors",
    ),
    "index leaves the folder": (
        _index('{"weight_map": {"a": "../model.safetensors"}}'),
        Reason.CHECKPOINT_INVALID,
        "../model.safetensors",
    ),
    "index names a tensor that is not there": (
        _index('{"weight_map": {"gone": "model.safetensors"}}'),
        Reason.CHECKPOINT_INVALID,
        "gone",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_naming_the_file(tmp_path: Path, case: str) -> None:
    breaking, reason, named = BROKEN[case]
    folder = write_checkpoint(tmp_path / "c")
    breaking(folder)
    with pytest.raises(SinkServeError, match=named) as raised:
        open_checkpoint(folder)
    assert raised.value.reason is reason


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone") as raised:
        open_checkpoint(tmp_path / "gone")
    assert raised.value.reason is Reason.SOURCE_NOT_FOUND


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


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, tuple[object, int | None, str]] = {
    "too short for a length": (b"", 99, "not safetensors"),
    "longer than the file": ({"a": ENTRY}, 1 << 40, "not safetensors"),
    "not JSON": (b"{a", None, "model.safetensors does not hold valid JSON"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, None, "tensor a has no valid dtype"),
    "not an object": ({"a": 3}, None, "tensor a has no valid dtype"),
    "offsets of another size": ({"a": ENTRY | {"data_offsets": [0, 4]}}, None, "tensor a .* has 4 bytes; .* 8"),
    "offset before the data": ({"a": ENTRY | {"data_offsets": [-8, 0]}}, None, "tensor a"),
    "negative extent": ({"a": ENTRY | {"shape": [-2], "data_offsets": [8, 0]}}, None, "tensor a"),
    "endless extent": ({"a": ENTRY | {"shape": [math.inf, 2]}}, None, "tensor a has no valid dtype, shape"),
    "extent that is not a count": ({"a": ENTRY | {"shape": [1e30]}}, None, "tensor a has no valid dtype, shape"),
    "extent that is text": ({"a": ENTRY | {"shape": ["2"]}}, None, "tensor a has no valid dtype, shape"),
    "endless offset": ({"a": ENTRY | {"data_offsets": [0, math.inf]}}, None, "tensor a has no valid dtype, shape"),
    "huge extents": ({"a": ENTRY | {"shape": [10**4000] * 2}}, None, "tensor a has no valid dtype, shape"),
    "too many axes": ({"a": ENTRY | {"shape": [2, *[1] * 99]}}, None, "tensor a has no valid dtype, shape"),
    "past the end": ({"a": ENTRY | {"shape": [4], "data_offsets": [0, 16]}}, None, "cut off: tensor a"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_bad_header_is_refused_naming_file_and_tensor(tmp_path: Path, case: str) -> None:
    header, length, named = HEADERS[case]
    with pytest.raises(InvalidArgument, match=named) as raised:
        open_checkpoint(_raw(tmp_path / "c", header, bytes(8), length))
    assert raised.value.reason is Reason.CHECKPOINT_INVALID
    assert raised.value.metadata["file"] == "model.safetensors"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I64", "U8"])
def test_a_tensor_of_another_type_is_refused_once_it_is_needed(tmp_path: Path, dtype: str) -> None:
    header = {"a": ENTRY | {"dtype": dtype}, "b": ENTRY}
    checkpoint = open_checkpoint(_raw(tmp_path / "c", header, bytes(8)))
    np.testing.assert_array_equal(checkpoint.tensors.tensor("b"), [0, 0])
    with pytest.raises(InvalidArgument, match=f"tensor a in model.safetensors is {dtype}; F32, F16"):
        checkpoint.tensors.require("a", (2,))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", layers=1))
    for ask in (
        checkpoint.tensors.tensor,
        checkpoint.tensors.shape,
        lambda name: list(checkpoint.tensors.blocks(name)),
    ):
        with pytest.raises(InvalidArgument, match=f"tensor {NAME} is missing from model.safetensors"):
            ask(NAME)


def test_another_shape_than_config_asks_for_is_refused_with_both(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", hidden=32))
    with pytest.raises(InvalidArgument, match=r"model\.norm\.weight in model\.safetensors has shape \[32\].*\[64\]"):
        checkpoint.tensors.require("model.norm.weight", (64,))
    checkpoint.tensors.require("model.norm.weight", (32,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    stored = np.ones((4, 4), ml_dtypes.bfloat16)
    stored[2, 3] = value
    checkpoint = open_checkpoint(_folder(tmp_path / "c", {"a": stored}))
    with pytest.raises(InvalidArgument, match=r"tensor a in model\.safetensors is not finite"):
        checkpoint.tensors.tensor("a")


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    checkpoint = open_checkpoint(folder)
    _truncate(folder)
    with pytest.raises(InvalidArgument, match=r"model\.safetensors ends inside tensor"):
        for name in checkpoint.tensors.names:
            checkpoint.tensors.tensor(name)


@pytest.mark.parametrize("kind", not_files.KINDS)
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"]
)
def test_what_is_not_a_file_is_refused_by_name_and_not_read(tmp_path: Path, name: str, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "c")
    not_files.put(kind, folder / name)
    with pytest.raises(InvalidArgument, match=f"/c/{name}") as raised:
        open_checkpoint(folder)
    assert raised.value.reason is Reason.CHECKPOINT_INVALID
    assert raised.value.violations[0].field == "spec.source.uri"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "c")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InvalidArgument, match=r"config\.json may not be read"):
        open_checkpoint(folder)


def test_a_file_that_is_read_whole_may_not_be_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "c")
    monkeypatch.setattr(checkpoint_files, "MOST_BYTES", 10)
    with pytest.raises(InvalidArgument, match=r"config\.json is longer than 10 bytes"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ['{"a": ' + "1" * 5000 + "}", "[" * 200_000, '{"a": "\\ud800"}'])
def test_json_that_python_cannot_hold_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidArgument, match=r"config\.json does not hold valid JSON"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["a" * 256, "a/" * 3000])
def test_a_folder_whose_name_cannot_be_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match="no checkpoint folder"):
        open_checkpoint(tmp_path / name)
