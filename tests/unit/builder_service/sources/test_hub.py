"""Checkpoints from a hub that runs in this process, which fails like the real one."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.sources import file_filter as wanted
from builder_service.sources.folder import hash_files
from builder_service.sources.hub import Hub, Snapshot, check_digests
from builder_service.sources.locate import locate, open_source
from builder_service.sources.uri import Remote, Repository
from common.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from common.spec.manifest import Manifest
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source, Target
from tests.fakes.hub import FakeHub, fake_hub, files_of
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.pipeline.test_pipeline import Listener

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)
EVERYTHING = ("hf://",)
TOKEN = "hf_a_secret_nobody_should_read"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return files_of(write_checkpoint(tmp_path / "model", shards=2))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with fake_hub() as hub:
        yield hub


def _remote(hub: FakeHub, **changes: object) -> Remote:
    return Remote(hub_endpoint=hub.address, roots=EVERYTHING).model_copy(update=changes)


def _fetch(hub: FakeHub, revision: str = "", **changes: object) -> Snapshot:
    return Hub(_remote(hub, **changes)).fetch(Repository("org/model", revision), lambda line: None)


def test_what_a_build_reads_is_fetched_and_nothing_else(hub: FakeHub, files: dict[str, bytes]) -> None:
    others = {"pytorch_model.bin": b"x" * 9999, "consolidated.safetensors": b"x" * 9999, "onnx/config.json": b"{}"}
    commit = hub.repository().commit(files | others)
    lines: list[str] = []
    shares: list[float] = []
    found = Hub(_remote(hub)).fetch(Repository("org/model", "main"), lines.append, shares.append)
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
    first = _fetch(hub)
    hub.requests.clear()
    assert _fetch(hub) == first
    assert hub.downloads() == []


@pytest.mark.parametrize("short", [False, True])
def test_a_commit_stays_when_the_branch_moves(hub: FakeHub, files: dict[str, bytes], short: bool) -> None:
    commit = hub.repository().commit(files)
    hub.repository().commit(files | {"config.json": b"{}"})
    found = _fetch(hub, commit[:9] if short else commit)
    assert found.commit == commit
    assert (found.folder / "config.json").read_bytes() == files["config.json"]
    assert (_fetch(hub).folder / "config.json").read_bytes() == b"{}"


def test_a_branch_that_moves_during_the_download_is_left_at_the_commit_that_was_said(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.repository().commit(files)
    ask = Hub._ask

    def moved(self: Hub, *args: object, **more: object) -> Path:
        hub.repository().commit(files | {"config.json": b"{}"})
        return ask(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Hub, "_ask", moved)
    found = _fetch(hub)
    assert found.commit == found.folder.name == commit
    assert (found.folder / "config.json").read_bytes() == files["config.json"]


def test_a_cut_download_goes_on_where_it_was_cut(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.repository().commit(files)
    hub.cuts = [1000]
    found = _fetch(hub)
    assert [request.range for request in hub.requests if request.range] == ["bytes=1000-"]
    check_digests(hash_files(sorted(found.folder.iterdir()), lambda done: None))
    assert all((found.folder / name).read_bytes() == files[name] for name in hub.downloads())


def test_after_a_download_that_failed_the_next_build_fetches_the_torn_files_anew(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.repository().commit(files)
    hub.cuts = [0] * 100
    with pytest.raises(Unavailable, match="could not be had from") as caught:
        _fetch(hub)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    hub.cuts = []
    hub.requests.clear()
    found = _fetch(hub)
    assert all((found.folder / name).read_bytes() == data for name, data in files.items() if name in hub.downloads())
    assert "config.json" not in hub.downloads(), "whole files stay"
    assert {name for name in files if name.endswith(".safetensors")} <= set(hub.downloads())


def test_what_a_killed_download_left_is_removed_when_it_is_old(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    blobs = _fetch(hub).folder.parent.parent / "blobs"
    old, new = blobs / "a.1.incomplete", blobs / "b.2.incomplete"
    for path in (old, new):
        path.write_bytes(b"torn")
    os.utime(old, (time.time() - 7200,) * 2)
    _fetch(hub)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_damaged_file_of_the_cache_is_never_used(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    found = _fetch(hub)
    weights = next(found.folder.glob("*.safetensors"))
    blob = weights.resolve()
    blob.write_bytes(b"\0" * blob.stat().st_size)
    with pytest.raises(DataLoss, match=f"remove {blob}") as caught:
        check_digests(hash_files([weights], lambda done: None))
    assert caught.value.reason is Reason.CHECKPOINT_INVALID


@pytest.mark.parametrize("name", ["org/none", "none/model"])
def test_a_repository_that_is_not_there_is_not_found(hub: FakeHub, files: dict[str, bytes], name: str) -> None:
    hub.repository().commit(files)
    with pytest.raises(
        NotFound, match=f"{name} does not exist, or is private and SINKSERVE_BUILDER_HUB_TOKEN"
    ) as caught:
        Hub(_remote(hub)).fetch(Repository(name, ""), lambda line: None)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    assert caught.value.violations[0].field == "spec.source.uri"


def test_a_revision_that_is_not_there_is_not_found(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    with pytest.raises(NotFound, match="org/model has no revision 'v2'"):
        _fetch(hub, "v2")


def test_the_token_opens_what_is_private(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    hub.repository().token = TOKEN
    with pytest.raises(NotFound, match="SINKSERVE_BUILDER_HUB_TOKEN"):
        _fetch(hub)
    hub.requests.clear()
    _fetch(hub, hub_token=SecretStr(TOKEN))
    assert {request.token for request in hub.requests} == {TOKEN}


def test_a_gate_says_where_to_ask_and_what_to_set(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    hub.repository().token, hub.repository().gated = TOKEN, True
    with pytest.raises(
        FailedPrecondition, match=r"org/model is gated: ask for access there, and set SINKSERVE_BUILDER"
    ):
        _fetch(hub)


@pytest.mark.parametrize("cuts", [[], [0] * 100])
def test_the_token_is_in_no_log_and_no_error(
    hub: FakeHub,
    files: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    cuts: list[int],
) -> None:
    hub.repository().commit(files)
    hub.cuts = cuts
    remote = _remote(hub, hub_token=SecretStr(TOKEN))
    lines: list[str] = []
    with caplog.at_level(logging.DEBUG):
        try:
            Hub(remote).fetch(Repository("org/model", ""), lines.append)
        except Unavailable as error:
            lines += [error.message, str(error.metadata)]
    printed = capfd.readouterr()
    assert TOKEN not in "".join([*lines, caplog.text, printed.out, printed.err, repr(remote)])
    assert "/resolve/" not in printed.err, "addresses of files can be signed"


def test_the_child_is_told_the_token_and_nobody_else(tmp_path: Path) -> None:
    remote = Remote(hub_token=SecretStr(TOKEN))
    spec = ModelSpec(name="demo", source=Source(uri="hf://org/model"))
    order = Order(spec=spec, work=tmp_path, source_roots=(), store_url="", remote=remote)
    assert TOKEN not in repr(order)
    assert Order.model_validate_json(order.model_dump_json()).remote == remote


@pytest.mark.parametrize("revision", ["", "main", "v1"])
def test_offline_what_was_downloaded_is_used(hub: FakeHub, files: dict[str, bytes], revision: str) -> None:
    hub.repository().branches["v1"] = hub.repository().commit(files)
    online = _fetch(hub, revision)
    hub.requests.clear()
    assert _fetch(hub, revision, hub_offline=True) == online
    assert _fetch(hub, online.commit, hub_offline=True) == online
    assert hub.requests == []


def test_offline_without_a_cache_the_command_that_fills_it_is_named(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    with pytest.raises(FailedPrecondition, match="hf download org/model --revision v1") as caught:
        _fetch(hub, "v1", hub_offline=True)
    assert "SINKSERVE_BUILDER_HUB_OFFLINE" in caught.value.message
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["*.safetensors", "tokenizer.json"])
def test_offline_with_half_a_cache_nothing_is_built(hub: FakeHub, files: dict[str, bytes], kind: str) -> None:
    hub.repository().commit(files)
    next(_fetch(hub).folder.glob(kind)).unlink()
    with pytest.raises(FailedPrecondition, match="is not whole in"):
        _fetch(hub, hub_offline=True)


def test_a_hub_that_does_not_answer_is_named_with_what_to_do(hub: FakeHub) -> None:
    with pytest.raises(Unavailable, match="SINKSERVE_BUILDER_HUB_OFFLINE=true") as caught:
        _fetch(hub, hub_endpoint="http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in caught.value.message


def test_a_branch_is_never_taken_from_the_cache_because_the_hub_is_silent(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.repository().commit(files)
    _fetch(hub)
    with pytest.raises(Unavailable):
        _fetch(hub, hub_endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_unavailable(hub: FakeHub, status: int) -> None:
    hub.status = status
    with pytest.raises(Unavailable, match=f"the hub answers {status}"):
        _fetch(hub)


def test_only_pickled_weights_are_refused_with_the_commands_before_they_are_downloaded(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    commit = hub.repository().commit({"config.json": files["config.json"], "pytorch_model.bin": b"x" * 9999})
    with pytest.raises(InvalidArgument, match="holds pytorch_model.bin") as caught:
        _fetch(hub)
    assert (
        f"hf download org/model --revision {commit} --local-dir model && cd model && python -c" in caught.value.message
    )
    assert "pytorch_model.bin" not in hub.downloads()


@pytest.mark.parametrize("name", ["../../../evil.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(hub: FakeHub, files: dict[str, bytes], name: str) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    hub.repository().commit(files | {"model.safetensors.index.json": index, name: b"x" * 9999})
    with pytest.raises(InvalidArgument, match="not a file of this folder"):
        _fetch(hub)


def test_names_that_lead_out_of_the_repository_are_not_fetched(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files | {"../config.json": b"evil", "../../tokenizer.json": b"evil"})
    found = _fetch(hub)
    assert b"evil" not in files_of(found.folder).values()
    assert not (found.folder.parent / "config.json").exists()


def test_an_etag_that_leads_out_of_the_cache_is_refused(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repository().commit(files)
    monkeypatch.setattr("tests.fakes.hub._etag", lambda data: f"../../../evil-{len(data)}")
    with pytest.raises((FailedPrecondition, Unavailable)):
        _fetch(hub)


def test_a_repository_without_a_checkpoint_is_not_found(hub: FakeHub) -> None:
    hub.repository().commit({"README.md": b"nothing"})
    with pytest.raises(NotFound, match=r"hf://org/model has no config\.json"):
        _fetch(hub)


def test_what_does_not_fit_is_refused_before_it_is_downloaded(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository().commit(files)
    monkeypatch.setattr("builder_service.sources.hub.free_disk_bytes", lambda path: 10)
    with pytest.raises(ResourceExhausted, match="MiB are free in") as caught:
        _fetch(hub)
    assert caught.value.reason is Reason.OUT_OF_DISK
    assert not any(name.endswith("of-00002.safetensors") for name in hub.downloads())


@pytest.mark.parametrize("roots", [(), ("hf://other",), ("hf://org/other",), ("hf://or",), ("s3://org/model",)])
def test_what_is_under_no_root_is_not_even_asked_for(hub: FakeHub, roots: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="source roots") as caught:
        _fetch(hub, roots=roots)
    assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED
    assert hub.requests == []


def test_a_repository_that_has_moved_has_to_be_allowed_where_it_is(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository("elsewhere/model").commit(files)
    hub.renamed["org/model"] = "elsewhere/model"
    with pytest.raises(InvalidArgument, match="hf://elsewhere/model"):
        _fetch(hub, roots=("hf://org",))
    assert hub.downloads() == []


def _order(hub: FakeHub, tmp_path: Path, **changes: object) -> Order:
    spec = ModelSpec(name="demo", source=Source(uri="hf://org/model", revision="main"), cache=CACHE)
    (tmp_path / "work").mkdir(exist_ok=True)
    return Order(
        spec=spec.model_copy(update=changes),
        work=tmp_path / "work",
        source_roots=(),
        remote=_remote(hub),
        store_url=str(tmp_path / "store"),
    )


def test_a_build_pins_the_commit_and_gives_the_same_key_as_a_folder(
    hub: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.repository().commit(files)
    parent, beside = Listener(), Listener(builds=False)
    manifest = run_build(_order(hub, tmp_path), parent)
    assert isinstance(manifest, Manifest)
    assert manifest.spec.source == Source(uri="hf://org/model", revision=commit)
    assert f"hf://org/model@main is commit {commit}" in parent.lines
    shares = [report[1] for report in parent.reports if report[0] == "resolve"]
    assert shares == sorted(shares)
    local = _order(hub, tmp_path, source=Source(uri=str(tmp_path / "model")))
    run_build(local.model_copy(update={"source_roots": (tmp_path,)}), beside)
    assert beside.keys == parent.keys


def test_tensorrt_llm_is_told_to_take_a_folder(hub: FakeHub, tmp_path: Path) -> None:
    order = _order(hub, tmp_path, target=Target.TENSORRT_LLM, precision=Precision.BF16)
    with pytest.raises(InvalidArgument, match="hf download org/model --local-dir /models/model"):
        locate(order.spec, roots=(), remote=order.remote, work=tmp_path, log=print, progress=lambda done: None)
    assert hub.requests == []


def test_the_config_is_read_without_the_weights(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    with open_source(Source(uri="hf://org/model@main"), _remote(hub)) as checkpoint:
        assert checkpoint.config == json.loads(files["config.json"])
    assert not any(name.endswith(".safetensors") for name in hub.downloads())


def test_every_small_file_is_asked_for() -> None:
    assert len(set(wanted.SMALL)) == len(wanted.SMALL)
    assert wanted.small_files({"config.json", "merges.txt", "x"}, "here") == ("config.json", "merges.txt")
