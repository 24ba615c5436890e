from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.queue.capability import Capability
from common.spec.model_spec import PLAN_TARGETS, ModelSpec, Precision, Source, Target, TargetHardware

HERE = Capability(
    compute_capability="9.0", tensorrt_rtx="1.7.1.116", folders=(Path("/models"),), prefixes=("hf://org/",)
)


def _spec(target: Target = Target.ONNXRUNTIME, uri: str = "/models/demo", gpu: str = "") -> ModelSpec:
    precision = Precision.FP32 if target is Target.ONNXRUNTIME else Precision.FP16
    hardware = TargetHardware(compute_capability=gpu)
    return ModelSpec(name="demo", source=Source(uri=uri), target=target, precision=precision, hardware=hardware)


@pytest.mark.parametrize("target", Target)
def test_a_builder_with_a_gpu_and_both_compilers_builds_for_every_target(target: Target) -> None:
    assert HERE.can_build(_spec(target))


@pytest.mark.parametrize("target", Target)
def test_a_builder_without_them_builds_all_that_is_not_compiled(target: Target) -> None:
    assert Capability(folders=HERE.folders).can_build(_spec(target)) == (target not in PLAN_TARGETS)


def test_tensorrt_rtx_needs_its_compiler_and_no_gpu() -> None:
    assert Capability(tensorrt_rtx="1.7.1.116", folders=HERE.folders).can_build(_spec(Target.TENSORRT_RTX))
    assert not Capability(compute_capability="8.6", folders=HERE.folders).can_build(_spec(Target.TENSORRT_RTX))


@pytest.mark.parametrize(("asked", "can"), [("", True), ("9.0", True), ("12.0", False)])
def test_only_the_gpu_that_is_asked_for_will_do(asked: str, can: bool) -> None:
    assert HERE.can_build(_spec(Target.TENSORRT, gpu=asked)) is can


@pytest.mark.parametrize(
    ("uri", "can"),
    [
        ("/models/demo", True),
        ("file:///models/demo", True),
        ("/models", True),
        ("/elsewhere/demo", False),
        ("/models/../etc", False),
        ("hf://org/model", True),
        ("hf://organisation/model", False),
        ("s3://bucket/model", False),
        ("nonsense://x", False),
    ],
)
def test_it_reads_only_what_lies_under_its_roots(uri: str, can: bool) -> None:
    assert HERE.can_build(_spec(uri=uri)) is can


@pytest.mark.parametrize(("adapter", "can"), [("hf://org/tuned", True), ("/models/tuned", True), ("/elsewhere", False)])
def test_it_has_to_read_the_adapter_too(adapter: str, can: bool) -> None:
    spec = _spec()
    source = spec.source.model_copy(update={"adapter": adapter})
    assert HERE.can_build(spec.model_copy(update={"source": source})) is can


def test_a_link_out_of_a_root_leads_out_of_it(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    here = Capability(folders=(root.resolve(),))
    assert not here.can_build(_spec(uri=str(root / "link")))
