"""Builds from a hub: the commit is pinned, the key is that of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.sources import file_filter as wanted
from builder_service.sources.locate import locate, open_source
from common.errors import InvalidArgument
from common.spec.manifest import Manifest
from common.spec.model_spec import CacheGeometry, ModelSpec, Precision, Source, Target
from tests.fakes.hub import FakeHub
from tests.unit.builder_service.pipeline.listener import Listener
from tests.unit.builder_service.sources.hub.fetches import remote_of

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)


def _order(hub: FakeHub, tmp_path: Path, **changes: object) -> Order:
    spec = ModelSpec(name="demo", source=Source(uri="hf://org/model", revision="main"), cache=CACHE)
    (tmp_path / "work").mkdir(exist_ok=True)
    return Order(
        spec=spec.model_copy(update=changes),
        work=tmp_path / "work",
        source_roots=(),
        remote=remote_of(hub),
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
    with open_source(Source(uri="hf://org/model@main"), remote_of(hub)) as checkpoint:
        assert checkpoint.config == json.loads(files["config.json"])
    assert not any(name.endswith(".safetensors") for name in hub.downloads())


def test_every_small_file_is_asked_for() -> None:
    assert len(set(wanted.SMALL)) == len(wanted.SMALL)
    assert wanted.small_files({"config.json", "merges.txt", "x"}, "here") == ("config.json", "merges.txt")
