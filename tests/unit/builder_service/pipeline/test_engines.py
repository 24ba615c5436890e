"""What tiny real checkpoints become: engines that run, manifests that say what a runtime needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.graph.linear import LINEAR
from builder_service.pipeline import compile as compile_stage
from builder_service.pipeline.pipeline import run_build
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import OnnxRuntimeEngine
from common.engine.tensorrt import library
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import GOLDEN_PATH, GRAPH_PATH, TOKENIZER_PATH, WEIGHTS_PATH, Manifest
from common.spec.model_spec import Precision, Target
from common.window import SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.pipeline.builds import CACHE, built, order, store
from tests.unit.builder_service.pipeline.listener import Listener


@pytest.mark.parametrize("precision", LINEAR)
def test_a_checkpoint_becomes_an_engine_that_runs(model: Path, precision: Precision) -> None:
    manifest = built(model, precision=precision)
    placed = model.parent / "engine"
    placed.mkdir()
    for file in manifest.files:
        store(model).place(file.digest, placed / file.path)
    engine = OnnxRuntimeEngine(placed / GRAPH_PATH, manifest.architecture, manifest.rope, manifest.geometry)
    logits = engine.step((Feed(0, 0, SessionWindow(4, 12), (5, 6, 7)),))
    assert logits.shape == (1, manifest.architecture.vocabulary)
    assert np.isfinite(logits).all()
    engine.close()


def test_a_build_for_tensorrt_is_refused_where_nothing_can_compile_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "common.engine.tensorrt.plan", None)  # as if it could not be imported
    parent = Listener()
    with pytest.raises(FailedPrecondition, match=r"pip install 'sinkserve\[tensorrt\]'") as caught:
        built(model, parent, target=Target.TENSORRT, precision=Precision.BF16)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert not parent.keys


def test_a_build_for_tensorrt_rtx_is_refused_where_its_compiler_is_not_installed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "RTX_PACKAGES", ("no-such-package",))
    parent = Listener()
    with pytest.raises(FailedPrecondition, match=r"pip install 'sinkserve\[tensorrt-rtx\]'") as caught:
        built(model, parent, target=Target.TENSORRT_RTX, precision=Precision.BF16)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert not parent.keys
    assert list((model.parent / "work").iterdir()) == []


def test_an_engine_for_tensorrt_llm_pins_the_checkpoint_and_holds_none_of_it(model: Path) -> None:
    manifest = built(model, target=Target.TENSORRT_LLM, precision=Precision.BF16)
    assert [file.path for file in manifest.files] == [TOKENIZER_PATH]
    assert {file.path for file in manifest.source_files} >= {"config.json", "model.safetensors"}
    assert manifest.weight_bytes == (model / "model.safetensors").stat().st_size
    assert (manifest.verification, manifest.tolerance, manifest.hardware) == ({}, None, None)
    assert not manifest.verified_on
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_a_manifest_says_what_a_runtime_needs(model: Path) -> None:
    manifest = built(model)
    assert {file.path for file in manifest.files} == {GRAPH_PATH, WEIGHTS_PATH, TOKENIZER_PATH, GOLDEN_PATH}
    assert {file.path for file in manifest.source_files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert manifest.end_token_ids == (1, 4)
    assert manifest.text is not None
    assert manifest.tolerance is not None
    assert manifest.verification["divergence"] < manifest.tolerance
    assert manifest.verified_on == "cpu"
    assert manifest.tool_versions["onnx"]
    assert manifest.weight_bytes == next(file.size_bytes for file in manifest.files if file.path == WEIGHTS_PATH)
    assert (manifest.name, manifest.version, manifest.spec.cache) == ("demo", 0, CACHE)
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_what_a_stand_in_said_is_told_as_such(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hardware that an engine is compiled for is not there, its graph runs on the CPU in its place."""

    def stand_in(*stage: Any) -> compile_stage.Compiled:
        return compile_stage.Compiled(compile_stage._for_onnxruntime(*stage).engine, compile_stage.STAND_IN)

    monkeypatch.setattr(compile_stage, "_COMPILERS", {Target.ONNXRUNTIME: stand_in})
    parent = Listener()
    assert built(model, parent).verified_on == "cpu stand-in"
    assert [line for line in parent.lines if line.startswith("verified: on cpu stand-in, divergence")]


def test_a_checkpoint_without_tokenizer_takes_token_ids_and_says_so(tmp_path: Path) -> None:
    parent = Listener()
    manifest = built(write_checkpoint(tmp_path / "model", tokenizer=False), parent)
    assert manifest.text is None
    assert TOKENIZER_PATH not in {file.path for file in manifest.files}
    assert manifest.warnings
    assert [line for line in parent.lines if manifest.warnings[0] in line]


def test_the_same_checkpoint_gives_the_same_bytes_and_the_same_key(model: Path) -> None:
    first, second = Listener(), Listener()
    assert built(model, first).files == built(model, second, name="other").files
    assert first.keys == second.keys


def test_a_key_covers_weights_tokenizer_and_spec(model: Path) -> None:
    keys: list[str] = []

    def note(**changes: Any) -> None:
        parent = Listener(builds=False)
        assert run_build(order(model, **changes), parent) is None
        keys.extend(parent.keys)

    note()
    note(precision=Precision.INT4)
    (model / "tokenizer_config.json").write_text("{}")
    note()
    write_checkpoint(model, seed=7)
    note()
    assert len(set(keys)) == len(keys) == 4


def test_two_windows_of_a_checkpoint_share_their_weights_and_their_graph(model: Path) -> None:
    wide = CACHE.model_copy(update={"window_tokens": 20})
    one, two = ({file.path: file.digest for file in built(model, cache=cache).files} for cache in (CACHE, wide))
    assert one[WEIGHTS_PATH] == two[WEIGHTS_PATH]
    assert one[GRAPH_PATH] == two[GRAPH_PATH]  # a step brings as many rows as it needs
