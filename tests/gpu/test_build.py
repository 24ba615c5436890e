"""The real thing: from a checkpoint through the builder to the store, and from there as a runtime loads it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from builder_service.model.weight_format import ROUNDED
from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.tensorrt.timing_cache import TimingCaches
from common.errors import FailedPrecondition, Reason
from common.spec.capabilities import lacks
from common.spec.hardware import GpuMachine, Hardware
from common.spec.manifest import GOLDEN_PATH, PLAN_PATH, REPORT_PATH, TOKENIZER_PATH, Manifest
from common.spec.model_spec import BuildOptions, CacheGeometry, ModelSpec, Precision, Source, Target
from common.spec.published_engine import PublishedEngine
from common.spec.target_options import HardwareCompatibility, TensorRtOptions
from common.store.blob_store import open_store
from common.window import SessionWindow
from runtime_service.engines.loader import Loaded, Loader
from runtime_service.settings import RuntimeSettings
from tests.fakes.gpu import TensorRtEngine
from tests.gpu.findings import Findings
from tests.gpu.golden import compare, greedy
from tests.gpu.machine import FAKE
from tests.gpu.tolerances import TOLERANCES
from tests.samples.checkpoints import write_checkpoint
from tests.samples.engines import build_engine
from tests.samples.streams import feed_all, random_tokens
from tests.unit.builder_service.pipeline.listener import Listener

pytestmark = pytest.mark.gpu

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)
WINDOW = SessionWindow(4, 12)
# The builder writes no stand-in beside its graph, and the fake runs no graph in 16 bits.
BUILT = [Precision.FP32] if FAKE else list(TOLERANCES)


@dataclass
class Built:
    """A build of a checkpoint beside its store, and how it went."""

    model: Path
    precision: Precision = Precision.FP32
    options: TensorRtOptions = field(default_factory=TensorRtOptions)
    heard: Listener = field(default_factory=Listener)

    @property
    def store_url(self) -> str:
        return str(self.model.parent / "store")

    def run(self) -> Manifest:
        """Carry it out."""
        home = self.model.parent
        (home / "work").mkdir(exist_ok=True)
        spec = ModelSpec(
            name="demo",
            source=Source(uri=str(self.model)),
            target=Target.TENSORRT,
            precision=self.precision,
            cache=CACHE,
            options=BuildOptions(tensorrt=self.options),
        )
        order = Order(spec=spec, work=home / "work", source_roots=(home,), store_url=self.store_url)
        manifest = run_build(order, self.heard)
        assert manifest is not None
        return manifest

    def load(self, manifest: Manifest) -> TensorRtEngine:
        """Load it as a runtime does; its files go to the folder `loaded`."""
        loader = Loader(open_store(self.store_url), self.model.parent / "loaded", RuntimeSettings())
        loaded = loader.load(PublishedEngine(manifest, "sha256:" + 64 * "0", datetime.now(UTC)))
        assert isinstance(loaded, Loaded)
        assert isinstance(loaded.engine, TensorRtEngine)
        return loaded.engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Manifest]:
    """A build that nobody loads."""
    build = Built(write_checkpoint(tmp_path_factory.mktemp("once") / "model"))
    return build, build.run()


@pytest.mark.parametrize("precision", BUILT)
def test_what_the_builder_stores_is_loaded_and_says_what_the_cpu_engine_says(model: Path, precision: Precision) -> None:
    build = Built(model, precision)
    manifest = build.run()
    assert [file.path for file in manifest.files] == sorted([GOLDEN_PATH, PLAN_PATH, REPORT_PATH, TOKENIZER_PATH])
    assert manifest.tolerance is not None
    assert manifest.verification["divergence"] <= manifest.tolerance
    with closing(build_engine(model, manifest.geometry)) as cpu:
        golden = greedy(cpu, 0, WINDOW, random_tokens(9, cpu.vocabulary_size), 60)
    with closing(build.load(manifest)) as engine:
        assert engine.geometry == manifest.geometry
        closeness = compare(feed_all(engine, 1, WINDOW, golden.tokens, [1, 4]), golden)
    assert closeness.within(manifest.tolerance), closeness


@pytest.mark.skipif(FAKE, reason="the fake runs no graph in 16 bits")
@pytest.mark.parametrize("precision", sorted(ROUNDED))
def test_weights_in_few_bits_are_verified_on_this_gpu_and_loaded(
    model: Path, precision: Precision, machine: GpuMachine
) -> None:
    if lacks(machine.compute_capability, precision):
        pytest.skip(f"compute capability {machine.compute_capability} has no {precision}")
    build = Built(model, precision)
    manifest = build.run()
    assert manifest.verified_on == machine.gpu
    with closing(build.load(manifest)) as engine:
        assert engine.geometry == manifest.geometry


def test_the_manifest_says_what_the_engine_was_built_on_and_for(model: Path, machine: GpuMachine) -> None:
    hardware = Built(model, options=TensorRtOptions(version_compatible=True)).run().hardware
    assert hardware == Hardware(
        gpu=machine.gpu,
        compute_capability=machine.compute_capability,
        tensorrt_version=machine.tensorrt_version,
        cuda_version=machine.cuda_version,
        hardware_compatibility=HardwareCompatibility.NONE,
        version_compatible=True,
        platform=machine.platform,
    )


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"hardware_compatibility": "ampere_plus"}])
def test_a_plan_for_more_machines_than_this_one_runs_on_this_one(model: Path, options: dict[str, object]) -> None:
    build = Built(model, options=TensorRtOptions.model_validate(options))
    with closing(build.load(build.run())) as engine:
        logits = feed_all(engine, 0, WINDOW, random_tokens(40, engine.vocabulary_size), [4, 1])
    assert np.isfinite(list(logits.values())).all()


def test_a_second_build_uses_what_the_first_one_measured(model: Path, machine: GpuMachine, findings: Findings) -> None:
    build, seconds, sizes = Built(model), list[float](), list[int]()
    for _ in range(2):
        began = time.perf_counter()
        build.run()
        seconds.append(time.perf_counter() - began)
        key = f"sm_{machine.compute_capability.replace('.', '')}", machine.tensorrt_version
        sizes.append(len(TimingCaches(build.store_url).load(*key)))
    assert 0 < sizes[0] <= sizes[1]
    assert not [line for line in build.heard.lines if "timing cache" in line], "it was not taken, or not kept"
    findings.measure("a second build with the first one's timing cache: its time over the first one's", ratio(seconds))


def ratio(seconds: list[float]) -> str:
    return f"{seconds[1] / seconds[0]:.2f}"


@pytest.mark.parametrize(
    ("needed", "changes"),
    [
        ("compute capability 1.0", {"compute_capability": "1.0"}),
        ("TensorRT 8.6.1.6", {"tensorrt_version": "8.6.1.6"}),
        ("platform windows-amd64", {"platform": "windows-amd64"}),
        ("a driver for CUDA 99 or newer", {"cuda_version": "99.0"}),
    ],
)
def test_an_engine_for_another_machine_is_refused_before_its_files_are_read(
    once: tuple[Built, Manifest], needed: str, changes: dict[str, str]
) -> None:
    build, manifest = once
    assert manifest.hardware is not None
    other = manifest.model_copy(update={"hardware": manifest.hardware.model_copy(update=changes)})
    with pytest.raises(FailedPrecondition, match=f"needs {needed}; here is") as caught:
        build.load(other)
    assert caught.value.reason is Reason.ENGINE_INCOMPATIBLE
    assert not (build.model.parent / "loaded").exists()
