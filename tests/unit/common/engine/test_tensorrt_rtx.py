"""Where an engine on TensorRT-RTX differs from one on TensorRT. The library and CUDA are fakes."""

from __future__ import annotations

import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from common.engine.engine import Feed
from common.engine.tensorrt import library
from common.engine.tensorrt.library import TENSORRT, TENSORRT_RTX, rtx_version, use
from common.engine.tensorrt.runtime_cache import CACHE_PATH
from common.errors import FailedPrecondition, Reason
from common.window import Geometry, SessionWindow
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes import tensorrt_rtx as fake
from tests.fakes.cuda import FakeCuda
from tests.fakes.gpu import TensorRtEngine, compile_plan, install
from tests.samples.checkpoints import write_checkpoint

GEOMETRY = Geometry(sinks=4, window=9, chunk=4, slots=3)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    monkeypatch.setattr(fake_tensorrt, "ICudaEngine", fake.ICudaEngine)
    monkeypatch.setattr(fake.ICudaEngine, "compiled", 0)
    return install(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path, cuda: FakeCuda) -> Path:
    return compile_plan(write_checkpoint(tmp_path / "model", tokenizer=False), GEOMETRY, "fp16")


def step(plan: Path) -> int:
    """Load the plan, run it and close it; returns how often contexts were compiled until then."""
    model = read_model(open_checkpoint(plan.parent.parent).config)
    rope = read_rope(model, GEOMETRY)
    with closing(TensorRtEngine(plan, model.architecture, rope, GEOMETRY, library=TENSORRT_RTX)) as engine:
        assert engine.step((Feed(0, 0, SessionWindow(4, 9), (5, 6)),)).shape == (1, 384)
    return fake.ICudaEngine.compiled


def test_what_was_compiled_at_a_load_is_there_for_the_next(plan: Path, cuda: FakeCuda) -> None:
    assert step(plan) == 2
    assert plan.with_name(CACHE_PATH).read_bytes().startswith(fake.MAGIC)
    assert step(plan) == 2
    assert sorted(path.name for path in plan.parent.iterdir() if path.name.startswith("just")) == [CACHE_PATH]
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_a_cache_of_another_gpu_is_written_anew(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step(plan)
    monkeypatch.setattr(fake.IRuntimeCache, "accepts", False)
    assert step(plan) == 4
    plan.with_name(CACHE_PATH).unlink()
    assert step(plan) == 6


def test_where_it_cannot_be_kept_the_engine_runs_all_the_same(plan: Path) -> None:
    plan.with_name(CACHE_PATH).mkdir()
    assert step(plan) == 2
    assert step(plan) == 4


def test_a_process_has_one_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = ModuleType("rtx")
    monkeypatch.setitem(sys.modules, TENSORRT_RTX.module, rtx)
    monkeypatch.delitem(sys.modules, "tensorrt")
    use(TENSORRT_RTX)
    assert sys.modules["tensorrt"] is rtx
    use(TENSORRT_RTX)
    with pytest.raises(FailedPrecondition, match="this process has TensorRT-RTX, .* of target tensorrt$") as caught:
        use(TENSORRT)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    use(TENSORRT)
    with pytest.raises(FailedPrecondition, match="this process has TensorRT, .* of target tensorrt_rtx"):
        use(TENSORRT_RTX)


def test_what_is_not_installed_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TENSORRT_RTX.module, None)  # as if it could not be imported
    with pytest.raises(FailedPrecondition, match=r"needs TensorRT-RTX .*pip install 'sinkserve\[tensorrt-rtx\]'"):
        use(TENSORRT_RTX)

    def gone(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(library, "version", gone)
    with pytest.raises(FailedPrecondition, match=r"pip install 'sinkserve\[tensorrt-rtx\]'.*tensorrt-rtx-cu13"):
        rtx_version()


def test_its_two_packages_have_to_be_of_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "version", lambda package: "1.7.1.116" if package.endswith("libs") else "1.8.0.1")
    with pytest.raises(FailedPrecondition, match=r"of one version, and are of 1\.7\.1\.116, 1\.8\.0\.1"):
        rtx_version()
