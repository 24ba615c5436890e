"""Builds as their clients meet them: a real server, database and store, real processes, tiny real checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from builder_service.worker.child_process import COMMAND
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.engine.v1 import engine_pb2
from tests.fakes.scripted_builds import until
from tests.service.builder.builder import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, BuilderClient, Refusal, refused


async def test_a_checkpoint_becomes_an_engine_and_everybody_can_see_how(client: BuilderClient) -> None:
    build = await client.submit()
    assert (build.state, build.attempt, build.spec.precision) == (QUEUED, 0, engine_pb2.PRECISION_UNSPECIFIED)
    events = await client.events(build.name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [event.build.state for event in events if event.WhichOneof("event") == "build"]
    assert states == [QUEUED, RUNNING, SUCCEEDED]
    shares = [event.progress.build_progress for event in events if event.WhichOneof("event") == "progress"]
    assert shares == sorted(shares)
    stages = {event.progress.stage for event in events} - {pb.Build.STAGE_UNSPECIFIED}
    assert stages == set(pb.Build.Stage.values()) - {pb.Build.STAGE_UNSPECIFIED}
    assert any("verified" in event.log.text for event in events)
    ended = events[-1].build
    assert (ended.engine, ended.progress, ended.attempt) == ("demo@1", 1.0, 1)
    assert ended.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds() <= ended.end_time.ToNanoseconds()
    engine = await client.engine("demo")
    assert (engine.reference, list(engine.aliases)) == ("demo@1", ["latest"])
    assert engine.manifest.accepts_text
    assert engine.manifest.verification["divergence"] < 1e-8


@pytest.mark.long
async def test_a_build_leaves_nothing_in_the_work_folder(client: BuilderClient, tmp_path: Path) -> None:
    await client.built()
    assert list((tmp_path / "home" / "work").iterdir()) == []
    assert list((tmp_path / "home" / "store" / "uploads").iterdir()) == []


async def test_the_same_request_is_one_build(client: BuilderClient) -> None:
    first, again = await client.submit(request_id="r1"), await client.submit(request_id="r1")
    assert first.name == again.name
    refusal = await refused(client.submit(client.spec("other"), "r1"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert first.name in refusal.message
    listed = await client.builds.ListBuilds(pb.ListBuildsRequest())
    assert [build.name for build in listed.builds] == [first.name]


async def test_what_was_built_before_is_not_built_again(client: BuilderClient) -> None:
    first = await client.built()
    second = await client.built(client.spec("other"))
    assert [build.engine for build in (first, second)] == ["demo@1", "other@1"]
    engines = [await client.engine(build.engine) for build in (first, second)]
    assert len({engine.manifest.build_key for engine in engines}) == 1
    assert len({tuple(file.digest for file in engine.manifest.files) for engine in engines}) == 1
    assert engines[0].digest != engines[1].digest
    lines = [event.log.text for event in await client.events(second.name)]
    assert not any("verified" in line for line in lines)
    assert any("is the same; its files are used" in line for line in lines)


@pytest.mark.long
async def test_the_same_spec_again_ends_with_the_version_that_exists_unless_another_is_asked_for(
    client: BuilderClient,
) -> None:
    assert (await client.built()).engine == "demo@1"
    changed = client.spec(precision=engine_pb2.PRECISION_INT8)
    assert (await client.built(changed)).engine == "demo@2"
    assert (await client.built()).engine == "demo@1"
    assert (await client.engine("demo")).reference == "demo@2", "latest stays where it is"
    assert (await client.ended(await client.submit(request_id="r", new_version=True))).engine == "demo@3"
    assert (await refused(client.submit(request_id="r"))).reason == "REQUEST_ID_REUSED"


async def test_builds_are_listed_by_pages(client: BuilderClient) -> None:
    names = [(await client.submit(client.spec(f"m{number}"))).name for number in range(5)]
    seen, token = [], ""
    while True:
        page = await client.builds.ListBuilds(pb.ListBuildsRequest(page_size=2, page_token=token))
        assert len(page.builds) <= 2
        seen += [build.name for build in page.builds]
        if not (token := page.next_page_token):
            break
    assert seen == names[::-1]


async def test_a_cancelled_build_ends_and_the_next_one_runs(client: BuilderClient, tmp_path: Path) -> None:
    build = await client.submit()
    await client.until(build.name, RUNNING)
    answer = await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    assert answer.build.state == CANCELLED
    ended = await client.ended(build)
    assert (ended.state, Refusal.of(ended.error, ended.error.code).reason) == (CANCELLED, "BUILD_CANCELLED")
    refusal = await refused(client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUILD_ENDED")
    assert (await client.built()).engine == "demo@1"
    assert not _children()
    assert list((tmp_path / "home" / "work").iterdir()) == []


async def test_a_queued_build_can_be_cancelled(client: BuilderClient) -> None:
    await client.submit()
    build = await client.submit(client.spec("second"))
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    states = [event.build.state for event in await client.events(build.name) if event.WhichOneof("event") == "build"]
    assert states == [QUEUED, CANCELLED]


def _children() -> list[psutil.Process]:
    """Build processes of this one."""
    return [
        child for child in psutil.Process().children() if child.is_running() and COMMAND[-1] in " ".join(_line(child))
    ]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


async def _child() -> psutil.Process:
    return (await until(_children, bool))[0]


@pytest.mark.long
async def test_a_killed_build_fails_alone_with_the_signal_as_its_cause(client: BuilderClient) -> None:
    build = await client.submit()
    (await _child()).kill()
    ended = await client.ended(build)
    refusal = Refusal.of(ended.error, ended.error.code)
    assert (ended.state, refusal.reason) == (FAILED, "BUILD_CRASHED")
    assert "SIGKILL" in refusal.message
    assert (await client.built()).engine == "demo@1"


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _edit(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
HARM: dict[str, tuple[Callable[[Path], object], grpc.StatusCode, str]] = {
    "model.safetensors": (lambda model: (model / "model.safetensors").unlink(), NOT_FOUND, "SOURCE_NOT_FOUND"),
    "config.json": (lambda model: (model / "config.json").unlink(), NOT_FOUND, "SOURCE_NOT_FOUND"),
    "ends": (lambda model: _break(model / "model.safetensors"), INVALID, "CHECKPOINT_INVALID"),
    "BertModel": (lambda model: _edit(model, architectures=["BertModel"]), INVALID, "ARCHITECTURE_UNSUPPORTED"),
    "new_maths": (lambda model: _edit(model, new_maths=1), INVALID, "CONFIG_UNSUPPORTED"),
    "window_tokens": (lambda model: _edit(model, max_position_embeddings=15), INVALID, "INVALID_SPEC"),
}


@pytest.mark.long
@pytest.mark.parametrize("said", HARM)
async def test_a_bad_checkpoint_fails_its_build_with_the_cause(client: BuilderClient, model: Path, said: str) -> None:
    harm, code, reason = HARM[said]
    harm(model)
    build = await client.ended(await client.submit())
    refusal = Refusal.of(build.error, build.error.code)
    assert (build.state, refusal.code, refusal.reason) == (FAILED, code.value[0], reason)
    assert said in refusal.message
    refusal = await refused(client.engine("demo"))
    assert refusal.reason == "ENGINE_NOT_FOUND"


@pytest.mark.long
async def test_a_source_outside_the_roots_fails_its_build(client: BuilderClient, tmp_path: Path) -> None:
    build = await client.ended(await client.submit(_spec(uri="/etc")))
    refusal = Refusal.of(build.error, build.error.code)
    assert (refusal.reason, refusal.fields) == ("SOURCE_NOT_ALLOWED", ["spec.source.uri"])
    assert str(tmp_path) in refusal.message


def _spec(name: str = "demo", uri: str = "/m", **cache: int) -> engine_pb2.ModelSpec:
    sizes = {"sink_tokens": 4, "window_tokens": 12, "chunk_tokens": 4, "max_slots": 2} | cache
    return engine_pb2.ModelSpec(name=name, source=engine_pb2.Source(uri=uri), cache=engine_pb2.CacheGeometry(**sizes))


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (engine_pb2.ModelSpec(), ["spec.name", "spec.source.uri"]),
        (_spec(window_tokens=0), ["spec.cache.window_tokens"]),
        (_spec(sink_tokens=-1), ["spec.cache.sink_tokens"]),
        (_spec(max_slots=0, chunk_tokens=0), ["spec.cache.chunk_tokens", "spec.cache.max_slots"]),
        (_spec("A b"), ["spec.name"]),
        (_spec(uri="relative"), ["spec.source.uri"]),
        (_spec(uri="hf://repo"), ["spec.source.uri"]),
        (_spec(uri="s3://"), ["spec.source.uri"]),
    ],
)
async def test_a_bad_spec_is_refused_with_its_fields(
    client: BuilderClient, spec: engine_pb2.ModelSpec, fields: list[str]
) -> None:
    refusal = await refused(client.submit(spec))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")
    assert refusal.fields == fields
    assert not (await client.builds.ListBuilds(pb.ListBuildsRequest())).builds


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("GetBuild", pb.GetBuildRequest(name="builds/1f"), NOT_FOUND, "BUILD_NOT_FOUND"),
        ("GetBuild", pb.GetBuildRequest(name="builds/" + "1" * 500), NOT_FOUND, "BUILD_NOT_FOUND"),
        ("GetBuild", pb.GetBuildRequest(), INVALID, "INVALID_FIELD"),
        ("CancelBuild", pb.CancelBuildRequest(name="engines/1"), INVALID, "INVALID_FIELD"),
        ("CancelBuild", pb.CancelBuildRequest(name="builds/1f"), NOT_FOUND, "BUILD_NOT_FOUND"),
        ("ListBuilds", pb.ListBuildsRequest(page_size=-1), INVALID, "INVALID_FIELD"),
        ("ListBuilds", pb.ListBuildsRequest(page_token="x"), INVALID, "INVALID_FIELD"),
        ("SubmitBuild", pb.SubmitBuildRequest(request_id="x" * 129), INVALID, "INVALID_FIELD"),
    ],
)
async def test_a_bad_request_is_refused(
    client: BuilderClient, method: str, request_: object, code: grpc.StatusCode, reason: str
) -> None:
    refusal = await refused(getattr(client.builds, method)(request_))
    assert (refusal.code, refusal.reason) == (code, reason)


async def test_a_flipped_bit_is_found_and_built_again(client: BuilderClient, tmp_path: Path) -> None:
    await client.built()
    engine = await client.engine("demo")
    weights = next(file for file in engine.manifest.files if file.path == "weights.bin")
    blob = tmp_path / "home" / "store" / "blobs" / "sha256" / weights.digest.removeprefix("sha256:")
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    request = cat.VerifyEngineRequest(reference="demo")
    refusal = await refused(client.catalog.VerifyEngine(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
    assert "weights.bin of demo@1" in refusal.message
    await client.built()
    await client.catalog.VerifyEngine(request)
