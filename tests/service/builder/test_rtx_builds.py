"""Builds for TensorRT-RTX by the real compiler, through the service: what they publish, and what they leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from builder_service.families.registry import read_model
from builder_service.model.tensors import source_shapes
from builder_service.worker import child_process
from builder_service.worker.child_process import COMMAND
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.engine.v1 import engine_pb2
from tests.rtx.process import needs_rtx
from tests.samples.checkpoints import llama_config
from tests.service.builder.builder import CANCELLED, BuilderClient, refused
from tests.service.builder.failures.causes import building, cause, failed

pytestmark = needs_rtx

DEMO = Path(__file__).resolve().parents[3] / "demo" / "model"


def spec(client: BuilderClient, name: str = "demo", *gpus: str) -> engine_pb2.ModelSpec:
    """In bf16, for these architectures, or for those that it is built for if none is named."""
    options = engine_pb2.BuildOptions(tensorrt_rtx=engine_pb2.TensorRtRtxOptions(compute_capabilities=gpus))
    kind = {"target": engine_pb2.TARGET_TENSORRT_RTX, "precision": engine_pb2.PRECISION_BF16}
    return client.spec(name, options=options, **kind)


def left_over(home: Path) -> list[Path]:
    """Files of builds that are over, in the work folder and in the store."""
    return [path for folder in ("work", "store") for path in (home / folder).rglob("*") if path.is_file()]


@pytest.mark.long
async def test_the_demo_model_becomes_a_plan_for_the_gpus_that_are_named(tmp_path: Path) -> None:
    async with building(DEMO, DEMO, store_url=str(tmp_path / "store"), home=tmp_path / "home") as client:
        build = await client.submit(spec(client, "demo", "sm120", "sm86"))
        events = [event.progress for event in await client.events(build.name) if event.HasField("progress")]
        shares = [event.build_progress for event in events if event.stage == pb.Build.STAGE_COMPILE]
        assert len(shares) > 4, "it moves while the compiler is silent"
        assert shares == sorted(set(shares))
        engine = await client.engine("demo@1")
        hardware, manifest = engine.manifest.hardware, engine.manifest
        assert list(hardware.compute_capabilities) == ["8.6", "12.0"]
        assert (hardware.gpu, hardware.compute_capability) == ("", "")
        assert hardware.tensorrt_version == manifest.tool_versions["tensorrt_rtx"]
        assert manifest.network["KV_CACHE_UPDATE"] == 2 * manifest.layers
        assert manifest.verification["divergence"] < manifest.verification["allowed_divergence"]
        assert [file.path for file in manifest.files] == ["engine.plan", "golden.json", "tokenizer.json"]
        assert manifest.verified_on == "cpu stand-in"
        again = await client.built(spec(client, "again", "sm86", "sm120"))
        assert (await client.engine(again.engine)).manifest.files == manifest.files, "two plans would differ in bytes"


@pytest.mark.long
async def test_a_cancel_while_it_compiles_ends_the_process_and_leaves_nothing(tmp_path: Path) -> None:
    async with building(DEMO, DEMO, store_url=str(tmp_path / "store"), home=tmp_path / "home") as client:
        build = await client.submit(spec(client))
        async for event in client.watch(build.name):
            if event.progress.stage == pb.Build.STAGE_COMPILE and event.progress.stage_progress > 0:
                await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
        assert cause(await client.get(build.name), CANCELLED).reason == "BUILD_CANCELLED"
    assert not [child for child in psutil.Process().children() if COMMAND[-1] in child.cmdline()]
    assert left_over(tmp_path / "home") == left_over(tmp_path) == []


@pytest.mark.long
async def test_what_cannot_be_compiled_beneath_the_limit_is_refused_before_it_begins(tmp_path: Path) -> None:
    model = _large(tmp_path / "model")
    async with building(tmp_path, model, memory_limit_mib=2048) as client:
        error = await failed(client, **RTX)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    weights = (model / "model.safetensors").stat().st_size
    assert 3.6 * weights < int(error.metadata["estimate_bytes"]) < 3.6 * weights + 2**30
    assert left_over(tmp_path / "home") == []


RTX: dict[str, Any] = {"target": engine_pb2.TARGET_TENSORRT_RTX, "precision": engine_pb2.PRECISION_BF16}
HARMED = """
import os, resource
from pathlib import Path
from builder_service.machine.cgroup import field
from builder_service.pipeline import child, export
write_model = export.write_model
def then_harm(*args, **named):
    write_model(*args, **named)
    {harm}
export.write_model = then_harm
child.main()
"""
"""A build's process that something happens to before it compiles."""
ENDS = {
    "the weights end too early": (
        'os.truncate(args[4] / "weights.bin", (args[4] / "weights.bin").stat().st_size - 200)',
        "TOOLCHAIN_FAILED",
        "external weights offset/length out of range",
    ),
    "the disk is full": (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))",
        "OUT_OF_DISK",
        "the disk is full, in COMPILE",
    ),
    "there is no more memory": (
        'resource.setrlimit(resource.RLIMIT_DATA, (2**26 + 1024 * field(Path("/proc/self/status"), "VmData:"),) * 2)',
        "OUT_OF_MEMORY",
        "ran out of memory, in COMPILE",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize(("harm", "reason", "words"), ENDS.values(), ids=ENDS)
async def test_what_ends_while_it_compiles_is_named_and_nothing_is_left(  # noqa: PLR0917 - fixtures
    client: BuilderClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, reason: str, words: str
) -> None:
    monkeypatch.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", HARMED.format(harm=harm)))
    error = await failed(client, **RTX)
    assert error.reason == reason
    assert words in error.message
    assert left_over(tmp_path / "home") == []


def _large(folder: Path) -> Path:
    """Half a GiB of zeros that take no room."""
    config = llama_config(vocab=65_536, dtype="bfloat16", hidden=2048, layers=1)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in source_shapes(read_model(config)).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


async def test_a_gpu_that_it_is_not_compiled_for_is_refused_by_name(client: BuilderClient, tmp_path: Path) -> None:
    refusal = await refused(client.submit(spec(client, "demo", "sm90")))
    assert refusal.fields == ["spec.options.tensorrt_rtx.compute_capabilities"]
    assert "sm90 is a datacenter or embedded GPU, which target tensorrt compiles for" in refusal.message
    refusal = await refused(client.submit(spec(client, "demo", "sm75", "sm86")))
    assert "sm75 cannot run precision bf16; leave it out, or build it in fp16" in refusal.message
    fp8 = spec(client)  # for the GPUs that it is built for if none is named
    fp8.precision = engine_pb2.PRECISION_FP8
    refusal = await refused(client.submit(fp8))
    assert refusal.fields == ["spec.options.tensorrt_rtx.compute_capabilities"]
    assert "sm86 cannot run precision fp8; leave it out, or build it in fp32 or fp16" in refusal.message
    assert not list((await client.builds.ListBuilds(pb.ListBuildsRequest())).builds)
