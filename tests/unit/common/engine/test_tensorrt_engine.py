"""What the TensorRT engine does besides being an engine: refusals, memory, and what it asks of the device.

That it is an engine: `tests/contract/test_engine.py`. TensorRT and CUDA are fakes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.model.weight_format import WeightFormat
from builder_service.pipeline.estimate import kv_bytes_per_slot
from common.engine.engine import Feed
from common.errors import FailedPrecondition, Internal, Reason, ResourceExhausted
from common.spec.manifest import Architecture
from common.spec.model_spec import Precision
from common.window import Geometry, SessionWindow
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.cuda import FakeCuda
from tests.fakes.gpu import TensorRtEngine, compile_plan, install
from tests.samples.checkpoints import write_checkpoint

GEOMETRY = Geometry(sinks=4, window=9, chunk=4, slots=3)
WINDOW = SessionWindow(4, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer=False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


def make(
    folder: Path, geometry: Geometry = GEOMETRY, *, plan: Path | None = None, changes: dict[str, int] | None = None
) -> TensorRtEngine:
    model = read_model(open_checkpoint(folder).config)
    architecture = Architecture.model_validate(model.architecture.model_dump() | (changes or {}))
    plan = plan or compile_plan(folder, GEOMETRY, "fp16")
    return TensorRtEngine(plan, architecture, read_rope(model, geometry), geometry)


def nothing_left(cuda: FakeCuda) -> bool:
    return not (cuda.device or cuda.pinned or cuda.streams)


def test_a_file_that_is_no_plan_is_refused_with_tensorrts_words(cuda: FakeCuda, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"rubbish")
    with pytest.raises(FailedPrecondition, match=r"TensorRT 11\.4\S+ does not take the plan: magic tag does") as caught:
        make(folder, plan=path)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert nothing_left(cuda)


def test_a_plan_of_other_shapes_is_refused(cuda: FakeCuda, folder: Path) -> None:
    for geometry, changes in (
        (replace(GEOMETRY, window=8), {}),
        (GEOMETRY, {"layers": 1}),
        (GEOMETRY, {"head_dim": 4}),
    ):
        with pytest.raises(FailedPrecondition, match="the plan has .* the manifest says"):
            make(folder, geometry, changes=changes)
        assert nothing_left(cuda)


def test_a_plan_that_copies_its_caches_is_refused(
    cuda: FakeCuda, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt.ICudaEngine, "in_place", False)
    with pytest.raises(FailedPrecondition, match="key_cache_0_out is not written over key_cache_0 but over nothing"):
        make(folder)
    assert nothing_left(cuda)


def test_it_has_as_many_slots_as_fit_and_says_so(
    cuda: FakeCuda, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = read_model(open_checkpoint(folder).config).architecture
    slot = kv_bytes_per_slot(shapes, GEOMETRY, WeightFormat(Precision.FP16))
    staging = 4 * GEOMETRY.slots * (2 * GEOMETRY.chunk * GEOMETRY.rows + shapes.vocabulary)
    cuda.total_bytes = int((2.5 * slot + staging) / 0.9)
    engine = make(folder)
    assert engine.geometry == replace(GEOMETRY, slots=2)
    assert "slots=2" in capsys.readouterr().out
    assert cuda.used_bytes <= cuda.total_bytes
    with pytest.raises(ValueError, match="slot 2"):
        engine.step((Feed(2, 0, WINDOW, (1,)),))
    engine.close()


def test_where_no_slot_fits_it_is_refused_with_the_figures(cuda: FakeCuda, folder: Path) -> None:
    cuda.total_bytes = 1000
    with pytest.raises(ResourceExhausted, match="one slot takes"):
        make(folder)
    assert nothing_left(cuda)


def test_batches_start_where_memory_is_aligned(cuda: FakeCuda, folder: Path) -> None:
    """A slot of 19 rows is 608 bytes of a cache: every eighth begins at a multiple of 256."""
    engine = make(folder)
    assert engine.slot_multiple == 8
    assert np.isfinite(engine.step((Feed(2, 0, WINDOW, (1,)),))).all()
    engine.close()


def test_a_step_that_tensorrt_refuses_fails_with_its_words(
    cuda: FakeCuda, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(folder)
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(Internal, match=r"TensorRT \S+ refused the step: TensorRT gave no reason"):
        engine.step((Feed(0, 0, WINDOW, (1,)),))
    engine.close()


def test_a_context_is_told_only_what_changed(cuda: FakeCuda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(folder)
    told: list[str] = []
    for method in ("set_input_shape", "set_tensor_address"):
        plain = getattr(fake_tensorrt.IExecutionContext, method)

        def tell(self: Any, name: str, value: Any, plain: Any = plain) -> bool:
            told.append(name)
            return bool(plain(self, name, value))

        monkeypatch.setattr(fake_tensorrt.IExecutionContext, method, tell)
    for position in range(3):
        engine.step((Feed(0, position, WINDOW, (1,)),))
        told, first = [], told
        assert bool(first) is (position == 0)
    engine.step((Feed(0, 3, WINDOW, (1,)), Feed(1, 0, WINDOW, (1,))))
    assert "token_ids" in told
    assert "key_cache_0" in told
    engine.close()


def test_its_report_is_tensorrts(cuda: FakeCuda, folder: Path) -> None:
    engine = make(folder)
    assert "Layers" in engine.report()
    engine.close()
