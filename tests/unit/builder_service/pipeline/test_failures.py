"""Builds that fail say why and store nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.pipeline import export, plan
from builder_service.pipeline.export import write_model
from builder_service.pipeline.pipeline import run_build
from common.digest import digest_file
from common.errors import Reason, SinkServeError
from common.spec.manifest import GRAPH_PATH, WEIGHTS_PATH
from common.text.content import ContentEncoder
from tests.fakes.panic import panic
from tests.unit.builder_service.pipeline.builds import built, edit, order, store
from tests.unit.builder_service.pipeline.listener import Listener


def test_a_graph_that_onnxruntime_does_not_take_is_refused_with_its_words(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_rubbish(*args: Any, **named: Any) -> None:
        write_model(*args, **named)
        (args[4] / GRAPH_PATH).write_bytes(b"rubbish")

    monkeypatch.setattr(export, "write_model", export_rubbish)
    with pytest.raises(SinkServeError, match="onnxruntime .* cannot load the graph") as caught:
        run_build(order(model), Listener())
    assert caught.value.reason is Reason.TOOLCHAIN_FAILED


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
        (lambda model: edit(model, architectures=["BertModel"]), Reason.ARCHITECTURE_UNSUPPORTED, "BertModel"),
        (lambda model: edit(model, sliding_wings=3), Reason.CONFIG_UNSUPPORTED, "sliding_wings"),
        (lambda model: edit(model, max_position_embeddings=15), Reason.INVALID_SPEC, "window_tokens"),
    ],
)
def test_what_cannot_be_built_says_why_and_stores_nothing(
    model: Path, harm: Callable[[Path], None], reason: Reason, said: str
) -> None:
    harm(model)
    with pytest.raises(SinkServeError, match=said) as caught:
        run_build(order(model), Listener())
    assert caught.value.reason is reason
    assert not (model.parent / "store").exists()
    assert list((model.parent / "work").iterdir()) == [], "it was refused before anything was written"


def test_what_cannot_fit_is_refused_before_anything_is_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory_bytes", lambda: 1000)
    with pytest.raises(SinkServeError) as caught:
        run_build(order(model), Listener())
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
        run_build(order(model), Listener())
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert not (model.parent / "store").exists()


def test_a_checkpoint_that_changes_meanwhile_is_not_stored(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_and_touch(*args: Any, **named: Any) -> None:
        write_model(*args, **named)
        (model / "model.safetensors").touch()

    monkeypatch.setattr(export, "write_model", export_and_touch)
    with pytest.raises(SinkServeError, match=r"model\.safetensors was changed"):
        run_build(order(model), Listener())
    assert not (model.parent / "store").exists()


def test_what_is_stored_is_what_was_digested(model: Path) -> None:
    manifest = built(model)
    for file in manifest.files:
        assert digest_file(model.parent / "work" / "engine" / file.path) == file.digest
        assert store(model).verify(file.digest) == file.size_bytes


def test_a_tokenizer_that_panics_is_the_checkpoints_fault(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContentEncoder, "encode", panic)
    with pytest.raises(SinkServeError, match="tokenizer cannot be used: Panic: called") as caught:
        built(model)
    assert caught.value.reason is Reason.CHECKPOINT_INVALID
