"""A build for TensorRT from checkpoint to store, over a GPU that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from builder_service.tensorrt.timing_cache import TimingCaches
from common.errors import FailedPrecondition, Reason, ResourceExhausted
from common.spec.manifest import GOLDEN_PATH, PLAN_PATH, REPORT_PATH, TOKENIZER_PATH, Manifest
from common.spec.model_spec import BuildOptions, ModelSpec, Source, Target
from common.spec.target_options import TensorRtOptions
from common.store.blob_store import open_store
from tests.fakes import tensorrt as trt
from tests.fakes.cuda import FakeCuda
from tests.fakes.gpu import install
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.pipeline.builds import CACHE
from tests.unit.builder_service.pipeline.listener import Listener


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def built(model: Path, parent: Listener | None = None, **options: Any) -> Manifest:
    spec = ModelSpec(
        name="demo",
        source=Source(uri=str(model)),
        target=Target.TENSORRT,
        cache=CACHE,
        options=BuildOptions(tensorrt=TensorRtOptions(**options)),
    )
    home = model.parent
    (home / "work").mkdir(exist_ok=True)
    order = Order(spec=spec, work=home / "work", source_roots=(home,), store_url=str(home / "store"))
    manifest = run_build(order, parent or Listener())
    assert manifest is not None
    return manifest


def test_a_plan_is_built_verified_and_stored_with_its_report(cuda: FakeCuda, model: Path) -> None:
    manifest = built(model)
    assert [file.path for file in manifest.files] == sorted([GOLDEN_PATH, PLAN_PATH, REPORT_PATH, TOKENIZER_PATH])
    store = open_store(str(model.parent / "store"))
    for file in manifest.files:
        assert store.verify(file.digest) == file.size_bytes
    assert manifest.tolerance is not None
    assert manifest.hardware is not None
    assert manifest.verified_on == manifest.hardware.gpu
    assert manifest.verification["divergence"] < manifest.tolerance
    assert manifest.weight_bytes == (model.parent / "work/engine/weights.bin").stat().st_size
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_its_manifest_says_what_it_was_built_on_and_for(cuda: FakeCuda, model: Path) -> None:
    hardware = built(model, version_compatible=True).hardware
    assert hardware is not None
    assert (hardware.gpu, hardware.compute_capability) == ("Fake GPU", "9.0")
    assert (hardware.tensorrt_version, hardware.cuda_version) == ("11.4.0.106", "13.0")
    assert hardware.version_compatible


def test_the_gpu_and_tensorrt_are_part_of_the_build_key(
    cuda: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [built(model).build_key]
    cuda.capability = (8, 0)
    keys.append(built(model).build_key)
    monkeypatch.setattr(trt, "__version__", "11.5.0.1")
    keys.append(built(model).build_key)
    assert len(set(keys)) == 3


def test_timings_are_kept_for_the_next_build_on_such_a_gpu(cuda: FakeCuda, model: Path) -> None:
    caches = TimingCaches(str(model.parent / "store"))
    built(model)
    first = caches.load("sm_90", "11.4.0.106")
    built(model)
    assert caches.load("sm_90", "11.4.0.106") == first + b"+timing"
    assert caches.load("sm_80", "11.4.0.106") == b""


def test_a_build_goes_on_without_a_timing_cache(cuda: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the store is away")

    monkeypatch.setattr(TimingCaches, "load", refuse)
    monkeypatch.setattr(TimingCaches, "save", refuse)
    parent = Listener()
    built(model, parent)
    assert sum("the store is away" in line for line in parent.lines) == 2


def test_what_tensorrt_says_is_in_the_builds_log(cuda: FakeCuda, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt.Builder, "fails", "no kernel for it")
    parent = Listener()
    with pytest.raises(FailedPrecondition, match="no kernel for it") as caught:
        built(model, parent)
    assert caught.value.reason is Reason.TOOLCHAIN_FAILED
    assert "TensorRT: error: no kernel for it" in parent.lines


def test_a_device_that_is_too_small_is_refused_before_anything_is_written(cuda: FakeCuda, model: Path) -> None:
    cuda.total_bytes = 1000
    with pytest.raises(ResourceExhausted, match="of device memory and 0 MiB are free"):
        built(model)
    assert not list((model.parent / "work").iterdir())
