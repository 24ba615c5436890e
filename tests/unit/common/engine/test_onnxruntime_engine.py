"""What is particular to this engine; what it has in common with others is in the contract suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from common.engine.engine import Feed
from common.engine.onnxruntime_engine import BINDINGS_KEPT, OnnxRuntimeEngine
from common.errors import FailedPrecondition, Internal, Reason
from common.spec.manifest import GRAPH_PATH
from common.window import Geometry, SessionWindow
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine, export_graph
from tests.samples.streams import feed_all, random_tokens

GEOMETRY = Geometry(sinks=2, window=12, chunk=10, slots=4)
WINDOW = SessionWindow(2, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer=False)


@pytest.fixture
def engine(folder: Path) -> OnnxRuntimeEngine:
    return build_engine(folder, GEOMETRY)


def load(folder: Path, geometry: Geometry, graph: Path) -> OnnxRuntimeEngine:
    config = open_checkpoint(folder).config
    model = read_model(config)
    return OnnxRuntimeEngine(graph, model.architecture, read_rope(model, geometry), geometry)


def test_a_step_writes_its_rows_in_place_and_no_others(engine: OnnxRuntimeEngine) -> None:
    for slot in range(4):
        feed_all(engine, slot, WINDOW, random_tokens(30, 384, seed=slot), [1])
    before = [array.copy() for array in (*engine._pool.keys, *engine._pool.values)]
    engine.step((Feed(1, 30, WINDOW, (7, 8, 9)), Feed(2, 30, WINDOW)))
    first = 2 + (30 - 2) % GEOMETRY.ring
    for array, old in zip((*engine._pool.keys, *engine._pool.values), before, strict=True):
        changed = {tuple(place) for place in np.argwhere((array != old).any(axis=(1, 3))).tolist()}
        assert changed == {(1, first), (1, first + 1), (1, first + 2)}


def test_an_idle_slot_gets_padding_at_its_next_rows_only(engine: OnnxRuntimeEngine) -> None:
    for slot in range(3):
        feed_all(engine, slot, WINDOW, random_tokens(31, 384, seed=slot), [1])
    before = [array.copy() for array in (*engine._pool.keys, *engine._pool.values)]
    engine.step((Feed(0, 31, WINDOW, (7,)), Feed(1, 31, WINDOW), Feed(2, 31, WINDOW, (7,))))
    row = 2 + (31 - 2) % GEOMETRY.ring
    for array, old in zip((*engine._pool.keys, *engine._pool.values), before, strict=True):
        assert np.argwhere((array[1] != old[1]).any(axis=(0, 2))).ravel().tolist() == [row]


def test_bindings_are_kept_for_some_shapes_and_made_anew_for_others(engine: OnnxRuntimeEngine) -> None:
    def once(slot: int, count: int, step: int) -> np.ndarray:
        for each in range(4):
            engine.clear(each)
        return engine.step(tuple(Feed(slot + k, 2, WINDOW, (5,) * step) for k in range(count)))

    shapes = [(slot, count, step) for slot in range(4) for count in range(1, 5 - slot) for step in range(1, 10)]
    assert len(shapes) > BINDINGS_KEPT
    first = [once(*shape) for shape in shapes]
    assert len(engine._bindings) == BINDINGS_KEPT
    for shape, logits in zip(shapes, first, strict=True):
        np.testing.assert_array_equal(once(*shape), logits)


def test_threads_change_nothing_but_speed(folder: Path) -> None:
    tokens = random_tokens(40, 384)
    one, two = (feed_all(build_engine(folder, GEOMETRY, threads=n), 0, WINDOW, tokens, [10, 1]) for n in (1, 2))
    for position, logits in one.items():
        np.testing.assert_allclose(two[position], logits, rtol=0, atol=1e-5 * np.abs(logits).max())


def test_a_graph_of_another_model_is_refused_with_both_shapes(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path, tokenizer=False, kv_heads=4, heads=4)
    with pytest.raises(FailedPrecondition, match=r"key_cache_0 of \(4, 'rows', 8\).*\(2, \d+, 8\)") as caught:
        load(folder, GEOMETRY, export_graph(other, GEOMETRY) / GRAPH_PATH)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE


def test_a_graph_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    exported = export_graph(folder, GEOMETRY)
    model = onnx.load(exported / GRAPH_PATH, load_external_data=True)
    for port in model.graph.input:
        port.name = "last" if port.name == "outputs" else port.name
    for node in model.graph.node:
        node.input[:] = ["last" if name == "outputs" else name for name in node.input]
    onnx.save(model, tmp_path / GRAPH_PATH)
    with pytest.raises(FailedPrecondition, match=r"takes last, .* build the engine again") as caught:
        load(folder, GEOMETRY, tmp_path / GRAPH_PATH)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE


def test_padding_of_an_idle_slot_is_wiped_beside_a_draft_too(engine: OnnxRuntimeEngine) -> None:
    for slot in range(3):
        feed_all(engine, slot, WINDOW, random_tokens(20, 384, seed=slot), [5])
    state = engine.export_slot(1, 20, WINDOW)
    keys = state.keys.copy()
    keys[...] = np.nan
    engine.import_slot(1, replace(state, keys=keys))
    logits = engine.step((Feed(0, 20, WINDOW, (7, 8, 9), 3), Feed(1, 20, WINDOW), Feed(2, 20, WINDOW, (7,))))
    assert logits.shape == (4, 384)
    assert np.isfinite(logits).all()
    first = 2 + (20 - 2) % GEOMETRY.ring
    for array in engine._pool.keys:
        assert not array[1, :, first : first + 3].any()


@pytest.mark.parametrize("content", [b"", b"this is no graph", None])
def test_what_is_no_graph_is_refused(folder: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / GRAPH_PATH).write_bytes(content)
    with pytest.raises(FailedPrecondition, match=r"onnxruntime \d+\.\d+\.\d+ cannot load the graph") as caught:
        load(folder, GEOMETRY, tmp_path / GRAPH_PATH)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE


def test_a_graph_without_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    graph = tmp_path / GRAPH_PATH
    graph.write_bytes((export_graph(folder, GEOMETRY) / GRAPH_PATH).read_bytes())
    with pytest.raises(FailedPrecondition, match=r"cannot load the graph"):
        load(folder, GEOMETRY, graph)


def test_a_failure_inside_onnxruntime_is_an_internal_error(
    engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(engine._session, "run_with_iobinding", fail)
    with pytest.raises(Internal):
        engine.step((Feed(0, 0, WINDOW, (1,)),))


def test_an_engine_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime would warn here, were a cache copied instead of written in place."""
    engine = build_engine(folder, replace(GEOMETRY, slots=1))
    feed_all(engine, 0, SessionWindow(2, 12), random_tokens(30, 384), [3])
    engine.close()
    assert capfd.readouterr() == ("", "")
