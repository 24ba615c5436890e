"""The stages of a build on tiny real checkpoints, without processes."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint import folder, safetensors
from builder_service.pipeline import export, plan
from builder_service.pipeline.estimate import Estimate
from builder_service.pipeline.export import write_model
from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.queue.build import Stage, overall_progress
from common.digest import digest_file
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.errors import FailedPrecondition, Reason, SinkServeError
from common.spec.manifest import GRAPH_PATH, TOKENIZER_PATH, WEIGHTS_PATH, Manifest
from common.spec.model_spec import PRECISIONS, CacheGeometry, ModelSpec, Precision, Source, Target
from common.store.blob_store import BlobStore, open_store
from common.window import SessionWindow
from tests.samples.checkpoints import write_checkpoint

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)


@dataclass
class Listener:
    """A parent that lets everything happen, or not."""

    builds: bool = True
    stores: bool = True
    reports: list[tuple[Stage, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    digests: tuple[str, ...] = ()
    bytes: dict[Stage, int] = field(default_factory=dict)
    needs: Estimate | None = None

    def progress(self, stage: Stage, done: float, bytes_total: int = 0) -> None:
        self.reports.append((stage, done))
        if bytes_total:
            self.bytes[stage] = bytes_total

    def expect(self, needs: Estimate) -> None:
        self.needs = needs

    def log(self, text: str) -> None:
        self.lines.append(text)

    def may_build(self, key: str) -> bool:
        self.keys.append(key)
        return self.builds

    def may_store(self, digests: tuple[str, ...]) -> bool:
        self.digests = digests
        return self.stores


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def _order(folder: Path, **changes: Any) -> Order:
    home = folder.parent
    (home / "work").mkdir(exist_ok=True)
    spec = ModelSpec(name="demo", source=Source(uri=str(folder)), cache=CACHE)
    return Order(
        spec=spec.model_copy(update=changes), work=home / "work", source_roots=(home,), store_url=str(home / "store")
    )


def _store(folder: Path) -> BlobStore:
    return open_store(str(folder.parent / "store"))


def _built(folder: Path, parent: Listener | None = None, **changes: Any) -> Manifest:
    manifest = run_build(_order(folder, **changes), parent or Listener())
    assert manifest is not None
    return manifest


def _edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("precision", PRECISIONS[Target.ONNXRUNTIME])
def test_a_checkpoint_becomes_an_engine_that_runs(model: Path, precision: Precision) -> None:
    manifest = _built(model, precision=precision)
    placed = model.parent / "engine"
    placed.mkdir()
    for file in manifest.files:
        _store(model).place(file.digest, placed / file.path)
    engine = OnnxRuntimeEngine(placed / GRAPH_PATH, manifest.architecture, manifest.rope, manifest.geometry)
    logits = engine.step((Feed(0, 0, SessionWindow(4, 12), (5, 6, 7)),))
    assert logits.shape == (1, manifest.architecture.vocabulary)
    assert np.isfinite(logits).all()
    engine.close()


def test_a_build_for_tensorrt_is_refused_where_nothing_can_compile_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "common.engine.tensorrt_plan", None)  # as if it could not be imported
    parent = Listener()
    with pytest.raises(FailedPrecondition, match=r"pip install 'sinkserve\[tensorrt\]'") as caught:
        _built(model, parent, target=Target.TENSORRT, precision=Precision.BF16)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert not parent.keys


def test_an_engine_for_tensorrt_llm_pins_the_checkpoint_and_holds_none_of_it(model: Path) -> None:
    manifest = _built(model, target=Target.TENSORRT_LLM, precision=Precision.BF16)
    assert [file.path for file in manifest.files] == [TOKENIZER_PATH]
    assert {file.path for file in manifest.source_files} >= {"config.json", "model.safetensors"}
    assert manifest.weight_bytes == (model / "model.safetensors").stat().st_size
    assert (manifest.verification, manifest.tolerance, manifest.hardware) == ({}, None, None)
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_a_manifest_says_what_a_runtime_needs(model: Path) -> None:
    manifest = _built(model)
    assert {file.path for file in manifest.files} == {GRAPH_PATH, WEIGHTS_PATH, TOKENIZER_PATH}
    assert {file.path for file in manifest.source_files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert manifest.end_token_ids == (1, 4)
    assert manifest.text is not None
    assert manifest.tolerance is not None
    assert manifest.verification["divergence"] < manifest.tolerance
    assert manifest.tool_versions["onnx"]
    assert manifest.weight_bytes == next(file.size_bytes for file in manifest.files if file.path == WEIGHTS_PATH)
    assert (manifest.name, manifest.version, manifest.spec.cache) == ("demo", 0, CACHE)
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_a_checkpoint_without_tokenizer_takes_token_ids_and_says_so(tmp_path: Path) -> None:
    parent = Listener()
    manifest = _built(write_checkpoint(tmp_path / "model", tokenizer=False), parent)
    assert manifest.text is None
    assert TOKENIZER_PATH not in {file.path for file in manifest.files}
    assert manifest.warnings
    assert [line for line in parent.lines if manifest.warnings[0] in line]


def test_every_stage_is_reported_in_its_order_and_ends_whole(model: Path) -> None:
    parent = Listener()
    _built(model, parent)
    assert [stage for stage, _ in itertools.groupby(parent.reports, key=lambda report: report[0])] == list(Stage)
    shares = [overall_progress(stage, done) for stage, done in parent.reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_stages_that_move_bytes_say_how_many(model: Path) -> None:
    parent = Listener()
    manifest = _built(model, parent)
    assert parent.bytes == {
        Stage.RESOLVE: sum(file.size_bytes for file in manifest.source_files),
        Stage.QUANTIZE: manifest.weight_bytes,
        Stage.PUBLISH: sum(file.size_bytes for file in manifest.files),
    }
    assert parent.needs is not None
    assert parent.needs.memory_bytes > manifest.weight_bytes


def test_a_graph_that_onnxruntime_does_not_take_is_refused_with_its_words(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_rubbish(*args: Any, **named: Any) -> None:
        write_model(*args, **named)
        (args[4] / GRAPH_PATH).write_bytes(b"rubbish")

    monkeypatch.setattr(export, "write_model", export_rubbish)
    with pytest.raises(SinkServeError, match="onnxruntime .* cannot load the graph") as caught:
        run_build(_order(model), Listener())
    assert caught.value.reason is Reason.TOOLCHAIN_FAILED


def test_the_same_checkpoint_gives_the_same_bytes_and_the_same_key(model: Path) -> None:
    first, second = Listener(), Listener()
    assert _built(model, first).files == _built(model, second, name="other").files
    assert first.keys == second.keys


def test_a_key_covers_weights_tokenizer_and_spec(model: Path) -> None:
    keys: list[str] = []

    def note(**changes: Any) -> None:
        parent = Listener(builds=False)
        assert run_build(_order(model, **changes), parent) is None
        keys.extend(parent.keys)

    note()
    note(precision=Precision.INT4)
    (model / "tokenizer_config.json").write_text("{}")
    note()
    write_checkpoint(model, seed=7)
    note()
    assert len(set(keys)) == len(keys) == 4


def test_a_build_reads_every_file_of_the_checkpoint_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, read = {path.name for path in folder.open_checkpoint(model).files}, Counter[str]()

    def spy(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def note(path: Path) -> object:
            read[path.name] += 1
            return real(path)

        monkeypatch.setattr(module, name, note)

    for module, name in ((folder, "read_bytes"), (folder, "read_json"), (safetensors, "_read_header")):
        spy(module, name)
    _built(model)
    assert read == dict.fromkeys(files, 1)


def test_who_may_not_build_writes_nothing(model: Path) -> None:
    assert run_build(_order(model), Listener(builds=False)) is None
    assert list((model.parent / "work").iterdir()) == []


def test_who_may_not_store_stores_nothing(model: Path) -> None:
    parent = Listener(stores=False)
    assert run_build(_order(model), parent) is None
    assert len(parent.digests) == 3
    assert not (model.parent / "store").exists()


def test_two_geometries_of_a_checkpoint_share_their_weights(model: Path) -> None:
    wide = CACHE.model_copy(update={"window_tokens": 20})
    one, two = ({file.path: file.digest for file in _built(model, cache=cache).files} for cache in (CACHE, wide))
    assert one[WEIGHTS_PATH] == two[WEIGHTS_PATH]
    assert one[GRAPH_PATH] != two[GRAPH_PATH]


def _remove(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def _truncate(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda model: _discard((model / name).write_text(text))


def _discard(_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("harm", "reason", "said"),
    [
        (_remove("config.json"), Reason.SOURCE_NOT_FOUND, "config.json"),
        (_remove("model.safetensors"), Reason.SOURCE_NOT_FOUND, "safetensors"),
        (_truncate, Reason.CHECKPOINT_INVALID, "model.safetensors"),
        (_write("config.json", "{"), Reason.CHECKPOINT_INVALID, "config.json"),
        (_write("tokenizer.json", "{"), Reason.CHECKPOINT_INVALID, "tokenizer.json"),
        (_write("generation_config.json", '{"eos_token_id": 9999}'), Reason.CHECKPOINT_INVALID, "9999"),
        (lambda model: _edit(model, architectures=["BertModel"]), Reason.ARCHITECTURE_UNSUPPORTED, "BertModel"),
        (lambda model: _edit(model, sliding_wings=3), Reason.CONFIG_UNSUPPORTED, "sliding_wings"),
        (lambda model: _edit(model, max_position_embeddings=15), Reason.INVALID_SPEC, "window_tokens"),
    ],
)
def test_what_cannot_be_built_says_why_and_stores_nothing(
    model: Path, harm: Callable[[Path], None], reason: Reason, said: str
) -> None:
    harm(model)
    with pytest.raises(SinkServeError, match=said) as caught:
        run_build(_order(model), Listener())
    assert caught.value.reason is reason
    assert not (model.parent / "store").exists()
    assert list((model.parent / "work").iterdir()) == [], "it was refused before anything was written"


def test_what_cannot_fit_is_refused_before_anything_is_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory_bytes", lambda: 1000)
    with pytest.raises(SinkServeError) as caught:
        run_build(_order(model), Listener())
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert list((model.parent / "work").iterdir()) == []


def test_an_engine_whose_numbers_are_wrong_is_not_stored(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_wrongly(*args: Any, **named: Any) -> None:
        write_model(*args, **named)
        path = args[4] / WEIGHTS_PATH
        weights = np.frombuffer(path.read_bytes(), np.float32)
        path.write_bytes((weights * np.float32(1.05)).tobytes())

    monkeypatch.setattr(export, "write_model", export_wrongly)
    with pytest.raises(SinkServeError, match="is allowed") as caught:
        run_build(_order(model), Listener())
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert not (model.parent / "store").exists()


def test_a_checkpoint_that_changes_meanwhile_is_not_stored(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_and_touch(*args: Any, **named: Any) -> None:
        write_model(*args, **named)
        (model / "model.safetensors").touch()

    monkeypatch.setattr(export, "write_model", export_and_touch)
    with pytest.raises(SinkServeError, match=r"model\.safetensors was changed"):
        run_build(_order(model), Listener())
    assert not (model.parent / "store").exists()


def test_what_is_stored_is_what_was_digested(model: Path) -> None:
    manifest = _built(model)
    for file in manifest.files:
        assert digest_file(model.parent / "work" / "engine" / file.path) == file.digest
        assert _store(model).verify(file.digest) == file.size_bytes
