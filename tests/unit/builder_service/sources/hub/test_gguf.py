"""GGUF files of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.sources.locate import locate, open_source
from common.errors import NotFound
from common.spec.model_spec import ModelSpec, Source
from tests.fakes.hub import FakeHub
from tests.samples.checkpoints import write_checkpoint
from tests.samples.gguf.files import write_gguf
from tests.unit.builder_service.sources.hub.fetches import remote_of


def test_the_parts_of_a_gguf_are_fetched_and_nothing_else(hub: FakeHub, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", write_checkpoint(tmp_path / "folder", tokenizer=False), parts=2)
    parts = {f"q4/{path.name}": path.read_bytes() for path in tmp_path.glob("*.gguf")}
    hub.repository().commit(parts | {"y.gguf": b"GGUF", "README.md": b"#"})
    source = Source(uri="hf://org/model/q4/x-00001-of-00002.gguf")
    with open_source(source, remote_of(hub)) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    assert {f"q4/{Path(name).name}" for name in hub.downloads()} == parts.keys()
    with open_source(source, remote_of(hub, hub_offline=True)) as checkpoint:  # from the cache
        assert [path.name for path in checkpoint.files] == sorted(name.removeprefix("q4/") for name in parts)
    spec = ModelSpec(name="demo", source=source)
    found = locate(spec, roots=(), remote=remote_of(hub), work=tmp_path, log=print, progress=lambda done: None)
    assert found.origin.uri == source.uri
    assert found.path.name == "x-00001-of-00002.gguf"


def test_a_gguf_that_is_not_there_is_named_and_so_is_one_that_is(hub: FakeHub) -> None:
    hub.repository().commit({"y.gguf": b"GGUF"})
    with (
        pytest.raises(NotFound, match="there is no x.gguf at hf://org/model/x.gguf"),
        open_source(Source(uri="hf://org/model/x.gguf"), remote_of(hub)),
    ):
        pass
    with (
        pytest.raises(NotFound, match="or the name of a GGUF file, such as y.gguf"),
        open_source(Source(uri="hf://org/model"), remote_of(hub)),
    ):
        pass
