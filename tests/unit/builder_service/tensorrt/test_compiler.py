"""What the toolchain asks of TensorRT, and what it makes of TensorRT's answers, over fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from common.errors import FailedPrecondition, Reason
from common.spec.manifest import GRAPH_PATH
from common.spec.model_spec import Precision, Target
from common.spec.target_options import HardwareCompatibility, TensorRtOptions
from common.window import Geometry
from tests.fakes import tensorrt as trt
from tests.fakes.gpu import TensorRtCompiler, install
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import export_graph

GEOMETRY = Geometry(sinks=4, window=9, chunk=4, slots=3)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer=False)
    return export_graph(folder, GEOMETRY, "fp16", Target.TENSORRT) / GRAPH_PATH


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


class Heard:
    """Progress and log of a compilation."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.lines: list[str] = []

    def compile(self, graph: Path, *, cache: bytes = b"", progress: Callable[[float], None] | None = None) -> bytes:
        return self.with_options(graph, TensorRtOptions(), cache=cache, progress=progress)

    def with_options(
        self,
        graph: Path,
        options: TensorRtOptions,
        *,
        precision: Precision = Precision.FP16,
        cache: bytes = b"",
        progress: Callable[[float], None] | None = None,
    ) -> bytes:
        toolchain = TensorRtCompiler(GEOMETRY, precision, options, progress or self.shares.append, self.lines.append)
        return toolchain.compile(graph, graph.with_name("engine.plan"), cache).timing_cache


def config() -> trt.IBuilderConfig:
    """What the last build was given."""
    return trt.Builder.configs[-1]


def test_a_plan_is_written_and_its_progress_told(graph: Path) -> None:
    heard = Heard()
    heard.compile(graph)
    assert graph.with_name("engine.plan").read_bytes().startswith(trt.MAGIC)
    assert heard.shares == sorted(heard.shares)
    assert heard.shares[-1] == 1
    assert len(set(heard.shares)) > 4


def test_profiles_are_one_token_for_all_slots_and_a_chunk(graph: Path) -> None:
    Heard().compile(graph)
    decode, prefill = (profile.shapes for profile in config().profiles)
    assert decode["token_ids"] == ((1, 1), (3, 1), (3, 1))
    assert prefill["token_ids"] == ((1, 1), (1, 4), (3, 4))
    assert decode["mask"] == ((1, 1, 1, 1, 19), (3, 1, 1, 1, 19), (3, 1, 1, 1, 19))
    assert decode["key_cache_0"] == ((1, 2, 19, 8), (3, 2, 19, 8), (3, 2, 19, 8))
    inputs = {port.name for port in onnx.load(graph, load_external_data=False).graph.input}
    assert set(decode) == set(prefill) == inputs


def test_options_reach_the_builder(graph: Path) -> None:
    options = TensorRtOptions(
        workspace_mib=512,
        optimization_level=5,
        hardware_compatibility=HardwareCompatibility.AMPERE_PLUS,
        version_compatible=True,
    )
    Heard().with_options(graph, options)
    assert config().pools == {trt.MemoryPoolType.WORKSPACE: 512 << 20}
    assert config().builder_optimization_level == 5
    assert config().hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config().profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    assert {trt.BuilderFlag.VERSION_COMPATIBLE, trt.BuilderFlag.STRICT_NANS} <= config().flags


def test_defaults_leave_tensorrt_its_own(graph: Path) -> None:
    Heard().compile(graph)
    assert config().pools == {}
    assert config().builder_optimization_level == 3
    assert config().hardware_compatibility_level is trt.HardwareCompatibilityLevel.NONE
    assert trt.BuilderFlag.VERSION_COMPATIBLE not in config().flags


@pytest.mark.parametrize(("precision", "rounds"), [(Precision.FP32, False), (Precision.FP16, True)])
def test_float32_is_not_rounded_to_tf32(graph: Path, precision: Precision, *, rounds: bool) -> None:
    Heard().with_options(graph, TensorRtOptions(), precision=precision)
    assert (trt.BuilderFlag.TF32 in config().flags) is rounds


def test_a_node_that_the_parser_does_not_take_is_named(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt.OnnxParser, "refused", frozenset({"TensorScatter"}))
    with pytest.raises(FailedPrecondition, match=r"node \S+ \(TensorScatter\): no importer registered") as caught:
        Heard().compile(graph)
    assert caught.value.reason is Reason.TOOLCHAIN_FAILED
    assert caught.value.metadata["operator"] == "TensorScatter"
    assert caught.value.metadata["node"]


def test_a_build_that_fails_ends_with_tensorrts_last_words(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(trt.Builder, "fails", "could not find any implementation for node {ForeignNode}")
    with pytest.raises(FailedPrecondition, match=r"does not compile the graph: could not find .* \{ForeignNode\}"):
        heard.compile(graph)
    assert any("could not find" in line for line in heard.lines)


def test_a_failure_of_who_hears_of_progress_cancels_and_comes_back(graph: Path) -> None:
    plan = graph.with_name("engine.plan")
    plan.unlink(missing_ok=True)
    heard = []

    def break_off(share: float) -> None:
        heard.append(share)
        if share > 0.3:
            raise BrokenPipeError("the worker is gone")

    with pytest.raises(BrokenPipeError, match="the worker is gone"):
        Heard().compile(graph, progress=break_off)
    assert max(heard) < 1
    assert not plan.exists()


def test_the_timing_cache_goes_on_from_the_one_before(graph: Path) -> None:
    first = Heard().compile(graph)
    second = Heard().compile(graph, cache=first)
    assert first.startswith(trt.CACHE_MAGIC)
    assert second == first + b"+timing"


def test_a_timing_cache_that_tensorrt_does_not_take_is_left_out(graph: Path) -> None:
    heard = Heard()
    assert heard.compile(graph, cache=b"of another version") == Heard().compile(graph)
    assert any("timing cache" in line for line in heard.lines)


def test_a_timing_cache_of_another_gpu_is_left_out(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, plain = Heard().compile(graph), trt.IBuilderConfig.set_timing_cache

    def mismatches(self: trt.IBuilderConfig, cache: trt.ITimingCache, ignore_mismatch: bool) -> Any:
        return cache.data == trt.CACHE_MAGIC and plain(self, cache, ignore_mismatch)

    monkeypatch.setattr(trt.IBuilderConfig, "set_timing_cache", mismatches)
    assert Heard().compile(graph, cache=first) == first
