"""LoRA adapters of the hub: pinned to a commit as checkpoints are."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.sources.locate import locate, open_source
from common.errors import InvalidArgument, NotFound
from common.spec.manifest import Manifest
from common.spec.model_spec import CacheGeometry, ModelSpec, Source
from tests.fakes.hub import FakeHub, files_of
from tests.samples.adapters.folders import matrices_of, write_adapter
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.pipeline.listener import Listener
from tests.unit.builder_service.sources.hub.fetches import remote_of

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> dict[str, bytes]:
    return files_of(write_adapter(tmp_path / "adapter", matrices_of(base)))


def test_a_build_pins_the_adapters_commit_and_gives_the_same_key_as_a_folder(
    hub: FakeHub, base: Path, adapter: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.repository("org/tuned").commit(adapter | {"README.md": b"#", "tokenizer.json": b"{}"})
    keys: list[str] = []
    for uri in ("hf://org/tuned@main", str(tmp_path / "adapter")):
        spec = ModelSpec(name="demo", source=Source(uri=str(base), adapter=uri), cache=CACHE)
        (work := tmp_path / f"work-{len(keys)}").mkdir()
        order = Order(
            spec=spec, work=work, source_roots=(tmp_path,), remote=remote_of(hub), store_url=str(tmp_path / "store")
        )
        manifest = run_build(order, Listener())
        assert isinstance(manifest, Manifest)
        assert manifest.spec.source.adapter == uri.replace("@main", f"@{commit}")
        keys.append(manifest.build_key)
    assert keys[0] == keys[1]
    assert set(hub.downloads()) == adapter.keys()


def test_an_adapter_is_fetched_to_be_looked_at_and_comes_from_the_cache_where_there_is_no_network(
    hub: FakeHub, base: Path, adapter: dict[str, bytes]
) -> None:
    hub.repository("org/model").commit(files_of(base))
    hub.repository("org/tuned").commit(adapter)
    for uri, offline in (("hf://org/model", False), (str(base), True)):
        source = Source(uri=uri, adapter="hf://org/tuned")
        with open_source(source, remote_of(hub, hub_offline=offline)) as checkpoint:
            assert isinstance(checkpoint, AdaptedCheckpoint)
            assert checkpoint.adapter.config.base == "org/base"
    assert "model.safetensors" not in hub.downloads()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(uri="/m", adapter="hf://org/tuned@../x"), r"spec\.source\.adapter: '../x' is not a branch"),
        (
            Source(uri="/m", adapter="hf://org/tuned/x.gguf"),
            r"spec\.source\.adapter: .* is a GGUF file; a LoRA adapter",
        ),
        (Source(uri="/m", adapter="x.gguf"), r"spec\.source\.adapter: .* is relative"),
        (Source(uri="/m", adapter="http://a/b"), r"spec\.source\.adapter: "),
        (Source(uri="/m", adapter="hf://other/tuned"), r"spec\.source\.adapter: .* outside the builder's source roots"),
        (Source(uri="/m", adapter="hf://org/none"), r"spec\.source\.adapter: "),
        (Source(uri="/m", adapter="hf://org/model"), r"spec\.source\.adapter: .* has no adapter_config\.json"),
    ],
)
def test_what_is_wrong_names_the_adapters_field(hub: FakeHub, tmp_path: Path, source: Source, said: str) -> None:
    hub.repository("org/model").commit({"config.json": b"{}"})
    spec = ModelSpec(name="demo", source=source)
    remote = remote_of(hub, roots=("hf://org/",))
    with pytest.raises((InvalidArgument, NotFound), match=said) as caught:
        locate(spec, roots=(tmp_path,), remote=remote, work=tmp_path, log=print, progress=lambda done: None)
    assert {violation.field for violation in caught.value.violations} == {"spec.source.adapter"}
