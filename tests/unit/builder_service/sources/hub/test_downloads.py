"""What is downloaded from a hub: what a build reads, once, and whole whatever happens meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from builder_service.sources.folder import hash_files
from builder_service.sources.hub import Hub, check_digests
from builder_service.sources.uri import Repository
from common.errors import DataLoss, Reason, Unavailable
from tests.fakes.hub import FakeHub, files_of
from tests.unit.builder_service.sources.hub.fetches import fetch, remote_of


def test_what_a_build_reads_is_fetched_and_nothing_else(hub: FakeHub, files: dict[str, bytes]) -> None:
    others = {"pytorch_model.bin": b"x" * 9999, "consolidated.safetensors": b"x" * 9999, "onnx/config.json": b"{}"}
    commit = hub.repository().commit(files | others)
    lines: list[str] = []
    shares: list[float] = []
    found = Hub(remote_of(hub)).fetch(Repository("org/model", "main"), lines.append, shares.append)
    assert found.commit == commit
    assert files_of(found.folder) == {name: data for name, data in files.items() if name in hub.downloads()}
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= set(hub.downloads())
    assert not {"pytorch_model.bin", "consolidated.safetensors"} & set(hub.downloads())
    assert lines == [f"hf://org/model@main is commit {commit}"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0 < shares[0] < 1.0


def test_the_second_build_downloads_nothing(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    first = fetch(hub)
    hub.requests.clear()
    assert fetch(hub) == first
    assert hub.downloads() == []


@pytest.mark.parametrize("short", [False, True])
def test_a_commit_stays_when_the_branch_moves(hub: FakeHub, files: dict[str, bytes], short: bool) -> None:
    commit = hub.repository().commit(files)
    hub.repository().commit(files | {"config.json": b"{}"})
    found = fetch(hub, commit[:9] if short else commit)
    assert found.commit == commit
    assert (found.folder / "config.json").read_bytes() == files["config.json"]
    assert (fetch(hub).folder / "config.json").read_bytes() == b"{}"


def test_a_branch_that_moves_during_the_download_is_left_at_the_commit_that_was_said(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.repository().commit(files)
    ask = Hub._ask

    def moved(self: Hub, *args: object, **more: object) -> Path:
        hub.repository().commit(files | {"config.json": b"{}"})
        return ask(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Hub, "_ask", moved)
    found = fetch(hub)
    assert found.commit == found.folder.name == commit
    assert (found.folder / "config.json").read_bytes() == files["config.json"]


def test_a_cut_download_goes_on_where_it_was_cut(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.repository().commit(files)
    hub.cuts = [1000]
    found = fetch(hub)
    assert [request.range for request in hub.requests if request.range] == ["bytes=1000-"]
    check_digests(hash_files(sorted(found.folder.iterdir()), lambda done: None))
    assert all((found.folder / name).read_bytes() == files[name] for name in hub.downloads())


def test_after_a_download_that_failed_the_next_build_fetches_the_torn_files_anew(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.repository().commit(files)
    hub.cuts = [0] * 100
    with pytest.raises(Unavailable, match="could not be had from") as caught:
        fetch(hub)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    hub.cuts = []
    hub.requests.clear()
    found = fetch(hub)
    assert all((found.folder / name).read_bytes() == data for name, data in files.items() if name in hub.downloads())
    assert "config.json" not in hub.downloads(), "whole files stay"
    assert {name for name in files if name.endswith(".safetensors")} <= set(hub.downloads())


def test_what_a_killed_download_left_is_removed_when_it_is_old(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    blobs = fetch(hub).folder.parent.parent / "blobs"
    old, new = blobs / "a.1.incomplete", blobs / "b.2.incomplete"
    for path in (old, new):
        path.write_bytes(b"torn")
    os.utime(old, (time.time() - 7200,) * 2)
    fetch(hub)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_damaged_file_of_the_cache_is_never_used(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    found = fetch(hub)
    weights = next(found.folder.glob("*.safetensors"))
    blob = weights.resolve()
    blob.write_bytes(b"\0" * blob.stat().st_size)
    with pytest.raises(DataLoss, match=f"remove {blob}") as caught:
        check_digests(hash_files([weights], lambda done: None))
    assert caught.value.reason is Reason.CHECKPOINT_INVALID
