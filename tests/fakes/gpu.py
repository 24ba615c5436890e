"""A GPU that is none: `tensorrt` and CUDA's runtime replaced by fakes, for tests of what drives them.

Where `tensorrt` is not installed, the fake takes its name: so what imports it is imported here first, and from here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.cuda import FakeCuda

if importlib.util.find_spec("tensorrt") is None:
    sys.modules["tensorrt"] = fake_tensorrt

from builder_service.checkpoint.folder import open_checkpoint
from builder_service.families.registry import read_model, read_rope
from builder_service.tensorrt import compiler as tensorrt_toolchain
from builder_service.tensorrt import network as tensorrt_network
from builder_service.tensorrt.compiler import TensorRtCompiler
from common.engine import cuda_device
from common.engine.cuda_device import CudaDevice, find_gpu
from common.engine.device_kv_pool import DeviceKvPool
from common.engine.tensorrt import log as tensorrt_log
from common.engine.tensorrt import plan as tensorrt_plan
from common.engine.tensorrt.engine import TensorRtEngine
from common.spec.manifest import GRAPH_PATH
from common.spec.model_spec import Precision, Target
from common.spec.target_options import TensorRtOptions
from common.window import Geometry
from tests.samples.engines import export_graph

__all__ = ["CudaDevice", "DeviceKvPool", "TensorRtCompiler", "TensorRtEngine", "compile_plan", "find_gpu", "install"]


_timings: dict[str, bytes] = {}  # of all plans, for a suite compiles a hundred


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda | None = None) -> FakeCuda:
    """Put a fake GPU into this process for the time of a test."""
    cuda = cuda or FakeCuda()
    monkeypatch.setattr(fake_tensorrt, "cuda", cuda)
    monkeypatch.setattr(cuda_device, "cudart", cuda)
    for module in (tensorrt_plan, tensorrt_log, tensorrt_network, tensorrt_toolchain):
        monkeypatch.setattr(module, "trt", fake_tensorrt)
    return cuda


def compile_plan(folder: Path, geometry: Geometry, precision: str) -> Path:
    """A plan of the checkpoint in `folder`; compiled once."""
    out = export_graph(folder, geometry, precision, Target.TENSORRT)
    plan = out / "engine.plan"
    if not plan.exists():
        toolchain = TensorRtCompiler(geometry, Precision(precision), TensorRtOptions(), lambda _: None, print)
        _timings["cache"] = toolchain.compile(out / GRAPH_PATH, plan, _timings.get("cache", b"")).timing_cache
    return plan


def build_tensorrt_engine(folder: Path, geometry: Geometry, precision: str) -> TensorRtEngine:
    """From a checkpoint folder to an engine on the fake GPU."""
    model = read_model(open_checkpoint(folder).config)
    plan = compile_plan(folder, geometry, precision)
    return TensorRtEngine(plan, model.architecture, read_rope(model, geometry), geometry)
