"""Folders that are refused, naming the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder_service.checkpoint import files as checkpoint_files
from builder_service.checkpoint.folder import open_checkpoint
from common.errors import InvalidArgument, NotFound, Reason, SinkServeError
from tests.samples import not_files
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.checkpoint.folders import truncate


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _index(text: str) -> Callable[[Path], object]:
    """An index instead of the one file, which is a shard now."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], Reason, str]] = {
    "no config": (_remove("config.json"), Reason.SOURCE_NOT_FOUND, "config.json"),
    "no weights": (_remove("model.safetensors"), Reason.SOURCE_NOT_FOUND, "model.safetensors.index.json"),
    "cut off": (truncate, Reason.CHECKPOINT_INVALID, "model.safetensors is cut off"),
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
        _index('{"weight_map": {"gone": "shard.safetensors"}}'),
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
