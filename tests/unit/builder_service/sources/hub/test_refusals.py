"""Repositories that are refused before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, ResourceExhausted, Unavailable
from tests.fakes.hub import FakeHub, files_of
from tests.unit.builder_service.sources.hub.fetches import fetch


def test_only_pickled_weights_are_refused_with_the_commands_before_they_are_downloaded(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    commit = hub.repository().commit({"config.json": files["config.json"], "pytorch_model.bin": b"x" * 9999})
    with pytest.raises(InvalidArgument, match="holds pytorch_model.bin") as caught:
        fetch(hub)
    assert (
        f"hf download org/model --revision {commit} --local-dir model && cd model && python -c" in caught.value.message
    )
    assert "pytorch_model.bin" not in hub.downloads()


@pytest.mark.parametrize("name", ["../../../evil.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(hub: FakeHub, files: dict[str, bytes], name: str) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    hub.repository().commit(files | {"model.safetensors.index.json": index, name: b"x" * 9999})
    with pytest.raises(InvalidArgument, match="not a file of this folder"):
        fetch(hub)


def test_names_that_lead_out_of_the_repository_are_not_fetched(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files | {"../config.json": b"evil", "../../tokenizer.json": b"evil"})
    found = fetch(hub)
    assert b"evil" not in files_of(found.folder).values()
    assert not (found.folder.parent / "config.json").exists()


def test_an_etag_that_leads_out_of_the_cache_is_refused(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repository().commit(files)
    monkeypatch.setattr("tests.fakes.hub._etag", lambda data: f"../../../evil-{len(data)}")
    with pytest.raises((FailedPrecondition, Unavailable)):
        fetch(hub)


def test_a_repository_without_a_checkpoint_is_not_found(hub: FakeHub) -> None:
    hub.repository().commit({"README.md": b"nothing"})
    with pytest.raises(NotFound, match=r"hf://org/model has no config\.json"):
        fetch(hub)


def test_what_does_not_fit_is_refused_before_it_is_downloaded(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository().commit(files)
    monkeypatch.setattr("builder_service.sources.hub.free_disk_bytes", lambda path: 10)
    with pytest.raises(ResourceExhausted, match="MiB are free in") as caught:
        fetch(hub)
    assert caught.value.reason is Reason.OUT_OF_DISK
    assert not any(name.endswith("of-00002.safetensors") for name in hub.downloads())
