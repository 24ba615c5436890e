"""Checkpoints in an object store, which here is one in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError, UnauthenticatedError
from obstore.store import MemoryStore

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.sources import object_store as object_source
from builder_service.sources.locate import open_source
from builder_service.sources.object_store import ObjectStorePrefix
from builder_service.sources.uri import Prefix, Remote
from common.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from common.spec.manifest import Manifest
from common.spec.model_spec import CacheGeometry, ModelSpec, Source
from tests.fakes.hub import files_of
from tests.samples.adapters.folders import write_adapter
from tests.samples.checkpoints import write_checkpoint
from tests.servers.s3 import S3Server
from tests.unit.builder_service.pipeline.listener import Listener

PLACE = Prefix("s3://bucket/model")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(object_source, "open_object_store", lambda url, _patience_s: store)
    return store


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return files_of(write_checkpoint(tmp_path / "model", shards=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "fetched"
    path.mkdir()
    return path


def _put(store: MemoryStore, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        obstore.put(store, name, data)


def _spy(monkeypatch: pytest.MonkeyPatch, before: Callable[[str, Any], None]) -> None:
    get = obstore.get

    def spied(store: MemoryStore, name: str, **more: Any) -> Any:
        before(name, more)
        return get(store, name, **more)

    monkeypatch.setattr(obstore, "get", spied)


def test_what_a_build_reads_is_copied_and_nothing_else(
    store: MemoryStore, files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_source, "PART_BYTES", 1000)
    others = {
        "pytorch_model.bin": b"x",
        "consolidated.safetensors": b"x",
        "deeper/config.json": b"x",
        "README.md": b"x",
    }
    _put(store, files | others)
    shares: list[float] = []
    ObjectStorePrefix(PLACE).fetch(folder, shares.append)
    assert files_of(folder) == files
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 10


def test_no_more_than_a_part_is_asked_for_at_once(
    store: MemoryStore, files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_source, "PART_BYTES", 1000)
    sizes: list[int] = []
    _put(store, files)
    _spy(monkeypatch, lambda name, more: sizes.append(more["options"]["range"][1] - more["options"]["range"][0]))
    ObjectStorePrefix(PLACE).fetch(folder)
    assert max(sizes) == 1000


def test_an_object_that_is_written_to_meanwhile_is_refused(
    store: MemoryStore, files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_source, "PART_BYTES", 1000)
    _put(store, files)
    name = "model-00001-of-00002.safetensors"

    def change(asked: str, more: Any) -> None:
        if asked == name and more["options"]["range"][0] == 2000:
            obstore.put(store, name, files[name])

    _spy(monkeypatch, change)
    with pytest.raises(FailedPrecondition, match=f"{name} was changed while it was read") as caught:
        ObjectStorePrefix(PLACE).fetch(folder)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID


def test_an_object_that_vanishes_meanwhile_is_refused(
    store: MemoryStore, files: dict[str, bytes], folder: Path
) -> None:
    _put(store, files)
    objects = ObjectStorePrefix(PLACE)
    obstore.delete(store, "tokenizer.json")
    with pytest.raises(FailedPrecondition, match=r"tokenizer\.json was changed"):
        objects.fetch(folder)


def test_of_an_adapter_its_two_files_are_copied_and_no_more(store: MemoryStore, tmp_path: Path) -> None:
    files = files_of(write_adapter(tmp_path / "adapter", {"model.layers.0.mlp.up_proj": (4, 2)}))
    _put(store, files | {"README.md": b"#", "tokenizer.json": b"{}"})
    (folder := tmp_path / "fetched").mkdir()
    ObjectStorePrefix(replace(PLACE, adapter=True)).fetch(folder, weights=False)
    assert files_of(folder) == files
    obstore.delete(store, "adapter_model.safetensors")
    with pytest.raises(NotFound, match=r"s3://bucket/model has no adapter_model\.safetensors"):
        ObjectStorePrefix(replace(PLACE, adapter=True)).fetch(folder)


def test_an_adapter_where_a_model_is_wanted_is_named(store: MemoryStore, tmp_path: Path) -> None:
    _put(store, files_of(write_adapter(tmp_path / "adapter", {"model.layers.0.mlp.up_proj": (4, 2)})))
    with pytest.raises(InvalidArgument, match=r"sinkserve run MODEL --adapter s3://bucket/model"):
        ObjectStorePrefix(PLACE).fetch(tmp_path)


def test_nothing_under_a_prefix_is_not_found(store: MemoryStore) -> None:
    with pytest.raises(NotFound, match="there is nothing directly under s3://bucket/model") as caught:
        ObjectStorePrefix(PLACE)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    assert caught.value.violations[0].field == "spec.source.uri"


def test_a_prefix_without_a_checkpoint_is_not_found(store: MemoryStore, folder: Path) -> None:
    _put(store, {"a.txt": b""})
    with pytest.raises(NotFound, match=r"has no config\.json"):
        ObjectStorePrefix(PLACE).fetch(folder)


def test_a_missing_shard_is_named_before_anything_large_is_copied(
    store: MemoryStore, files: dict[str, bytes], folder: Path
) -> None:
    del files["model-00002-of-00002.safetensors"]
    _put(store, files)
    with pytest.raises(NotFound, match=r"model-00002-of-00002\.safetensors .* s3://bucket/model does not"):
        ObjectStorePrefix(PLACE).fetch(folder)
    assert not list(folder.glob("*.safetensors"))


def test_only_pickled_weights_are_refused_with_the_command(
    store: MemoryStore, files: dict[str, bytes], folder: Path
) -> None:
    _put(store, {"config.json": files["config.json"], "pytorch_model.bin": b"x"})
    with pytest.raises(InvalidArgument, match="holds pytorch_model.bin.*torch.load"):
        ObjectStorePrefix(PLACE).fetch(folder)


def test_what_does_not_fit_is_refused(
    store: MemoryStore, files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(store, files)
    monkeypatch.setattr(object_source, "free_disk_bytes", lambda path: 10)
    with pytest.raises(ResourceExhausted, match="are free in"):
        ObjectStorePrefix(PLACE).fetch(folder)


@pytest.mark.parametrize("error", [UnauthenticatedError("no"), GenericError("no route")])
def test_a_store_that_fails_is_named(
    store: MemoryStore, files: dict[str, bytes], folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = FailedPrecondition if isinstance(error, UnauthenticatedError) else Unavailable
    _put(store, files)

    def fail(name: str, more: Any) -> None:
        raise error

    _spy(monkeypatch, fail)
    with pytest.raises(kind, match="s3://bucket/model"):
        ObjectStorePrefix(PLACE).fetch(folder)


def test_a_store_that_cannot_be_opened_names_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidArgument, match="az://container/model cannot be used: .*Account") as caught:
        ObjectStorePrefix(Prefix("az://container/model"))
    assert caught.value.violations[0].field == "spec.source.uri"
    assert "store_url" not in caught.value.message


def test_a_build_from_an_object_store_gives_the_same_key_as_one_from_a_folder(
    store: MemoryStore, files: dict[str, bytes], tmp_path: Path
) -> None:
    _put(store, files)
    manifest, key = _built(tmp_path, PLACE.url)
    assert isinstance(manifest, Manifest)
    assert manifest.spec.source == Source(uri=PLACE.url)
    assert _built(tmp_path, str(tmp_path / "model"), builds=False) == (None, key)


def _built(home: Path, uri: str, *, builds: bool = True) -> tuple[Manifest | None, str]:
    (home / "work").mkdir(exist_ok=True)
    cache = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)
    order = Order(
        spec=ModelSpec(name="demo", source=Source(uri=uri), cache=cache),
        work=home / "work",
        source_roots=(home,),
        remote=Remote(roots=(PLACE.url,)),
        store_url=str(home / "store"),
    )
    parent = Listener(builds=builds)
    manifest = run_build(order, parent)
    return manifest, parent.keys[0]


def test_a_real_store_is_listed_and_read_in_parts(
    files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_source, "PART_BYTES", 10_000)
    with S3Server() as server:
        bucket = server.use(monkeypatch)
        for name, data in (files | {"deeper/config.json": b"x"}).items():
            bucket.write(name, data)
        ObjectStorePrefix(Prefix(bucket.url)).fetch(folder)
        with pytest.raises(NotFound, match="nothing directly under"):
            ObjectStorePrefix(Prefix(bucket.url[:-1]))
        with pytest.raises(FailedPrecondition, match="its bucket does not exist"):
            ObjectStorePrefix(Prefix("s3://no-such-bucket/a"))
        objects = ObjectStorePrefix(Prefix(bucket.url))
        bucket.write("model-00001-of-00002.safetensors", b"0" * len(files["model-00001-of-00002.safetensors"]))
        with pytest.raises(FailedPrecondition, match="was changed while it was read"):
            objects._part("model-00001-of-00002.safetensors", 0, 10)
    assert files_of(folder) == files


def test_the_config_is_read_without_the_weights(
    store: MemoryStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    _put(store, files)
    _spy(monkeypatch, lambda name, more: asked.append(name))
    with open_source(Source(uri=PLACE.url), Remote()) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    assert not any(name.endswith(".safetensors") for name in asked)


def test_of_a_gguf_all_parts_are_copied_and_nothing_else(store: MemoryStore, tmp_path: Path, folder: Path) -> None:
    names = ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf")
    _put(store, dict.fromkeys((*names, "y.gguf", "config.json"), b"GGUF"))
    ObjectStorePrefix(Prefix(PLACE.url, names[0])).fetch(folder, weights=False)
    assert sorted(files_of(folder)) == sorted(names)
    with pytest.raises(NotFound, match="there is no z.gguf at"):
        ObjectStorePrefix(Prefix(PLACE.url, "z.gguf")).fetch(folder)


def test_a_prefix_with_ggufs_only_says_to_name_one(store: MemoryStore, folder: Path) -> None:
    _put(store, dict.fromkeys(("b.gguf", "a.gguf"), b"GGUF"))
    with pytest.raises(NotFound, match="or the name of a GGUF file, such as a.gguf"):
        ObjectStorePrefix(PLACE).fetch(folder)
