"""The builder as its clients meet it: a real server, database and store, real processes, tiny real checkpoints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from builder_service.child_process import COMMAND
from builder_service.service import BuilderHandle, start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.engine.v1 import engine_pb2
from tests.checkpoints import write_checkpoint

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    pb.Build.State.Value(f"STATE_{name}") for name in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
)


@dataclass(frozen=True)
class Client:
    """Both services of one builder."""

    builds: Any
    catalog: Any
    model: Path

    def spec(self, name: str = "demo", **changes: Any) -> engine_pb2.ModelSpec:
        cache = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=2)
        spec = engine_pb2.ModelSpec(name=name, source=engine_pb2.Source(uri=str(self.model)), cache=cache)
        spec.MergeFrom(engine_pb2.ModelSpec(**changes))
        return spec

    async def submit(self, spec: engine_pb2.ModelSpec | None = None, request_id: str = "") -> pb.Build:
        request = pb.SubmitBuildRequest(spec=spec or self.spec(), request_id=request_id)
        return (await self.builds.SubmitBuild(request)).build

    async def get(self, name: str) -> pb.Build:
        return (await self.builds.GetBuild(pb.GetBuildRequest(name=name))).build

    def watch(self, name: str, after: int | None = None) -> Any:
        return self.builds.WatchBuild(pb.WatchBuildRequest(name=name, after_sequence=after))

    async def events(self, name: str, after: int | None = None) -> list[pb.WatchBuildResponse]:
        """All events after the snapshot."""
        return [event async for event in self.watch(name, after)][1:]

    async def ended(self, build: pb.Build) -> pb.Build:
        """The build as it is at the end of a watch."""
        changes = [event.build async for event in self.watch(build.name) if event.WhichOneof("event") == "build"]
        assert changes[-1] == await self.get(build.name)
        return changes[-1]

    async def built(self, spec: engine_pb2.ModelSpec | None = None) -> pb.Build:
        build = await self.ended(await self.submit(spec))
        assert build.state == SUCCEEDED, build.error
        return build

    async def engine(self, reference: str) -> engine_pb2.Engine:
        return (await self.catalog.GetEngine(cat.GetEngineRequest(reference=reference))).engine

    async def until(self, name: str, state: int) -> pb.Build:
        async for event in self.watch(name):
            if event.build.state == state:
                return event.build
        raise AssertionError(f"{name} ended and was never {state}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
async def builder(tmp_path: Path) -> AsyncIterator[BuilderHandle]:
    settings = BuilderSettings(listen="127.0.0.1:0", source_roots=(tmp_path,))
    handle = await start_builder(settings, SharedSettings(home=tmp_path / "home"))
    yield handle
    await handle.stop()


@pytest.fixture
async def client(builder: BuilderHandle, model: Path) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(builder.address) as channel:
        yield Client(BuilderServiceStub(channel), CatalogServiceStub(channel), model)


@dataclass(frozen=True)
class Refusal:
    """A status, taken apart."""

    code: grpc.StatusCode | int
    reason: str
    fields: list[str]
    message: str

    @classmethod
    def of(cls, status: status_pb2.Status, code: grpc.StatusCode | int) -> Refusal:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
        assert info.domain == "sinkserve"
        return cls(code, info.reason, [item.field for item in bad.field_violations], status.message)


async def _refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None
    return Refusal.of(status, caught.value.code())


async def test_a_checkpoint_becomes_an_engine_and_everybody_can_see_how(client: Client) -> None:
    build = await client.submit()
    assert (build.state, build.attempt, build.spec.precision) == (QUEUED, 0, engine_pb2.PRECISION_FP32)
    events = await client.events(build.name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [event.build.state for event in events if event.WhichOneof("event") == "build"]
    assert states == [QUEUED, RUNNING, SUCCEEDED]
    shares = [event.progress.progress for event in events if event.WhichOneof("event") == "progress"]
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
    assert engine.manifest.verification["relative_error_largest"] < 1e-4


async def test_a_build_leaves_nothing_in_the_work_folder(client: Client, tmp_path: Path) -> None:
    await client.built()
    assert list((tmp_path / "home" / "work").iterdir()) == []
    assert list((tmp_path / "home" / "store" / "uploads").iterdir()) == []


async def test_the_same_request_is_one_build(client: Client) -> None:
    first, again = await client.submit(request_id="r1"), await client.submit(request_id="r1")
    assert first.name == again.name
    refused = await _refused(client.submit(client.spec("other"), "r1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert first.name in refused.message
    listed = await client.builds.ListBuilds(pb.ListBuildsRequest())
    assert [build.name for build in listed.builds] == [first.name]


async def test_what_was_built_before_is_not_built_again(client: Client) -> None:
    first = await client.built()
    second = await client.built(client.spec("other"))
    third = await client.built()
    assert [build.engine for build in (first, second, third)] == ["demo@1", "other@1", "demo@2"]
    engines = [await client.engine(build.engine) for build in (first, second, third)]
    assert len({engine.manifest.build_key for engine in engines}) == 1
    assert len({tuple(file.digest for file in engine.manifest.files) for engine in engines}) == 1
    assert len({engine.digest for engine in engines}) == 3
    lines = [event.log.text for event in await client.events(third.name)]
    assert not any("verified" in line for line in lines)
    assert any("is the same; its files are used" in line for line in lines)


async def test_another_precision_is_another_build(client: Client) -> None:
    await client.built()
    await client.built(client.spec(precision=engine_pb2.PRECISION_INT4))
    keys = {(await client.engine(reference)).manifest.build_key for reference in ("demo@1", "demo@2")}
    assert len(keys) == 2


async def test_builds_are_listed_by_pages(client: Client) -> None:
    names = [(await client.submit(client.spec(f"m{number}"))).name for number in range(5)]
    seen, token = [], ""
    while True:
        page = await client.builds.ListBuilds(pb.ListBuildsRequest(page_size=2, page_token=token))
        assert len(page.builds) <= 2
        seen += [build.name for build in page.builds]
        if not (token := page.next_page_token):
            break
    assert seen == names[::-1]


async def test_a_cancelled_build_ends_and_the_next_one_runs(client: Client, tmp_path: Path) -> None:
    build = await client.submit()
    await client.until(build.name, RUNNING)
    answer = await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    assert answer.build.state == CANCELLED
    ended = await client.ended(build)
    assert (ended.state, Refusal.of(ended.error, ended.error.code).reason) == (CANCELLED, "BUILD_CANCELLED")
    refused = await _refused(client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUILD_ENDED")
    assert (await client.built()).engine == "demo@1"
    assert not _children()
    assert list((tmp_path / "home" / "work").iterdir()) == []


async def test_a_queued_build_can_be_cancelled(client: Client) -> None:
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
    while not (children := _children()):
        await asyncio.sleep(0.01)
    return children[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_killed_build_fails_alone_with_the_signal_as_its_cause(client: Client, number: signal.Signals) -> None:
    build = await client.submit()
    (await _child()).send_signal(number)
    ended = await client.ended(build)
    refusal = Refusal.of(ended.error, ended.error.code)
    assert (ended.state, refusal.reason) == (FAILED, "BUILD_CRASHED")
    assert number.name in refusal.message
    assert (await client.built()).engine == "demo@1"


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _edit(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "code", "reason", "said"),
    [
        (lambda model: (model / "model.safetensors").unlink(), grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND", "safetensors"),
        (lambda model: (model / "config.json").unlink(), grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND", "config.json"),
        (lambda model: _break(model / "model.safetensors"), grpc.StatusCode.INVALID_ARGUMENT, "CHECKPOINT_INVALID", "model.safetensors"),
        (lambda model: _edit(model, architectures=["BertModel"]), grpc.StatusCode.INVALID_ARGUMENT, "ARCHITECTURE_UNSUPPORTED", "BertModel"),
        (lambda model: _edit(model, new_maths=1), grpc.StatusCode.INVALID_ARGUMENT, "CONFIG_UNSUPPORTED", "new_maths"),
        (lambda model: _edit(model, max_position_embeddings=15), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC", "window_tokens"),
    ],
)  # fmt: skip
async def test_a_bad_checkpoint_fails_its_build_with_the_cause(
    client: Client, model: Path, harm: Callable[[Path], None], code: grpc.StatusCode, reason: str, said: str
) -> None:
    harm(model)
    build = await client.ended(await client.submit())
    refusal = Refusal.of(build.error, build.error.code)
    assert (build.state, refusal.code, refusal.reason) == (FAILED, code.value[0], reason)
    assert said in refusal.message
    refused = await _refused(client.engine("demo"))
    assert refused.reason == "ENGINE_NOT_FOUND"


@pytest.mark.parametrize(
    ("uri", "reason"), [("{}/nothing", "SOURCE_NOT_FOUND"), ("/etc", "SOURCE_NOT_ALLOWED"), ("{}/../..", "SOURCE_NOT_ALLOWED")]
)  # fmt: skip
async def test_a_source_that_cannot_be_read_fails_its_build(
    client: Client, tmp_path: Path, uri: str, reason: str
) -> None:
    spec = client.spec(source=engine_pb2.Source(uri=uri.format(tmp_path)))
    build = await client.ended(await client.submit(spec))
    refusal = Refusal.of(build.error, build.error.code)
    assert (refusal.reason, refusal.fields) == (reason, ["spec.source.uri"])


def _cache(**changes: int) -> engine_pb2.CacheGeometry:
    return engine_pb2.CacheGeometry(
        **(dict(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=2) | changes)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (engine_pb2.ModelSpec(), ["spec.name", "spec.source.uri"]),
        (engine_pb2.ModelSpec(name="a", source={"uri": "/m"}, cache=_cache(window_tokens=0)), ["spec.cache.window_tokens"]),
        (engine_pb2.ModelSpec(name="a", source={"uri": "/m"}, cache=_cache(sink_tokens=-1)), ["spec.cache.sink_tokens"]),
        (engine_pb2.ModelSpec(name="a", source={"uri": "/m"}, cache=_cache(max_slots=0)), ["spec.cache.max_slots"]),
        (engine_pb2.ModelSpec(name="A b", source={"uri": "/m"}), ["spec.name"]),
        (engine_pb2.ModelSpec(name="a", source={"uri": "relative"}), ["spec.source.uri"]),
        (engine_pb2.ModelSpec(name="a", source={"uri": "hf://org/repo"}), ["spec.source.uri"]),
    ],
)  # fmt: skip
async def test_a_bad_spec_is_refused_with_its_fields(
    client: Client, spec: engine_pb2.ModelSpec, fields: list[str]
) -> None:
    refused = await _refused(client.submit(spec))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")
    assert refused.fields == fields
    assert not (await client.builds.ListBuilds(pb.ListBuildsRequest())).builds


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("GetBuild", pb.GetBuildRequest(name="builds/1f"), grpc.StatusCode.NOT_FOUND, "BUILD_NOT_FOUND"),
        ("GetBuild", pb.GetBuildRequest(name="builds/" + "1" * 500), grpc.StatusCode.NOT_FOUND, "BUILD_NOT_FOUND"),
        ("GetBuild", pb.GetBuildRequest(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ("CancelBuild", pb.CancelBuildRequest(name="engines/1"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ("CancelBuild", pb.CancelBuildRequest(name="builds/1f"), grpc.StatusCode.NOT_FOUND, "BUILD_NOT_FOUND"),
        ("ListBuilds", pb.ListBuildsRequest(page_size=-1), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ("ListBuilds", pb.ListBuildsRequest(page_token="x"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ("SubmitBuild", pb.SubmitBuildRequest(request_id="x" * 129), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_refused(
    client: Client, method: str, request_: object, code: grpc.StatusCode, reason: str
) -> None:
    refused = await _refused(getattr(client.builds, method)(request_))
    assert (refused.code, refused.reason) == (code, reason)


@pytest.mark.parametrize(
    ("name", "after", "reason"), [("builds/1f", None, "BUILD_NOT_FOUND"), ("x", None, "INVALID_FIELD"), ("builds/1f", -1, "INVALID_FIELD")]
)  # fmt: skip
async def test_a_bad_watch_is_refused(client: Client, name: str, after: int | None, reason: str) -> None:
    assert (await _refused(client.events(name, after))).reason == reason


async def test_all_watchers_see_the_same_events(client: Client) -> None:
    build = await client.submit()
    seen = await asyncio.gather(*(client.events(build.name) for _ in range(5)))
    assert all(events == seen[0] for events in seen)
    assert await client.events(build.name) == seen[0], "also after its end"


async def test_a_watch_goes_on_where_another_broke_off(client: Client) -> None:
    build = await client.submit()
    first: list[pb.WatchBuildResponse] = []
    watch = client.watch(build.name)
    async for event in watch:
        first.append(event)
        if len(first) == 5:
            watch.cancel()
            break
    rest = await client.events(build.name, first[-1].sequence)
    whole = await client.events(build.name)
    assert [*first[1:], *rest] == whole
    assert await client.events(build.name, whole[-1].sequence) == []


async def test_the_first_word_of_a_watch_is_the_build_as_it_is(client: Client) -> None:
    build = await client.built()
    async for event in client.watch(build.name, 1000):
        assert (event.sequence, event.build) == (0, build)


async def test_a_watcher_that_leaves_leaves_nothing(client: Client, builder: BuilderHandle) -> None:
    await client.submit()
    build = await client.submit(client.spec("queued"))
    alone = builder.changes.waiting
    watches = [client.watch(build.name) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).sequence == 0
    while builder.changes.waiting < alone + len(watches):
        await asyncio.sleep(0.01)
    for watch in watches:
        watch.cancel()
    await client.ended(build)
    while builder.changes.waiting > 2:  # the worker's own
        await asyncio.sleep(0.01)


async def test_aliases_are_set_moved_listed_and_deleted(client: Client) -> None:
    await client.built()
    await client.built()
    catalog = client.catalog
    answer = await catalog.SetAlias(cat.SetAliasRequest(reference="demo@1", alias="prod"))
    assert answer.alias == cat.Alias(name="demo", alias="prod", version=1)
    await catalog.SetAlias(cat.SetAliasRequest(reference="demo", alias="prod"))
    assert (await client.engine("demo:prod")).version == 2
    listed = await catalog.ListAliases(cat.ListAliasesRequest(name="demo"))
    assert [(alias.alias, alias.version) for alias in listed.aliases] == [("latest", 2), ("prod", 2)]
    await catalog.DeleteAlias(cat.DeleteAliasRequest(name="demo", alias="prod"))
    assert (await _refused(client.engine("demo:prod"))).reason == "ENGINE_NOT_FOUND"
    for alias in ("latest", "17"):
        refused = await _refused(catalog.SetAlias(cat.SetAliasRequest(reference="demo", alias=alias)))
        assert (refused.code, refused.reason, refused.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ALIAS",
            ["alias"],
        )


async def test_engines_are_listed_verified_and_deleted(client: Client, tmp_path: Path) -> None:
    for name in ("b", "a", "b"):
        await client.built(client.spec(name))
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2))
    assert [engine.reference for engine in page.engines] == ["a@1", "b@2"]
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2, page_token=page.next_page_token))
    assert [engine.reference for engine in page.engines] == ["b@1"]
    assert not page.next_page_token
    verified = await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="b@1"))
    assert (verified.files, verified.size_bytes) == (3, page.engines[0].size_bytes)
    for reference in ("b@1", "a@1"):
        await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference=reference))
    await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="b"))
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="b@2"))
    assert list((tmp_path / "home" / "store" / "blobs" / "sha256").iterdir()) == []
    assert (await client.built(client.spec("b"))).engine == "b@3"
    refused = await _refused(client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="b")))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["reference"])


async def test_a_flipped_bit_is_found_and_built_again(client: Client, tmp_path: Path) -> None:
    await client.built()
    engine = await client.engine("demo")
    weights = next(file for file in engine.manifest.files if file.path == "weights.bin")
    blob = tmp_path / "home" / "store" / "blobs" / "sha256" / weights.digest.removeprefix("sha256:")
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    request = cat.VerifyEngineRequest(reference="demo")
    refused = await _refused(client.catalog.VerifyEngine(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
    assert "weights.bin of demo@1" in refused.message
    await client.built()
    await client.catalog.VerifyEngine(request)


class Process:
    """`python -m builder_service`, as an operator runs it."""

    def __init__(self, folder: Path) -> None:
        self._environment = os.environ | {
            "SINKSERVE_HOME": str(folder / "home"),
            "SINKSERVE_BUILDER_SOURCE_ROOTS": str(folder),
            "SINKSERVE_BUILDER_LISTEN": "127.0.0.1:0",
        }
        self.start()

    def start(self) -> None:
        """Start, or start again; returns when it listens."""
        command = [sys.executable, "-m", "builder_service"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self._environment)
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if "builder.listening" in line)
        self.address = line.partition("address=")[2].split()[0]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.wait()

    def client(self, channel: grpc.aio.Channel, model: Path) -> Client:
        return Client(BuilderServiceStub(channel), CatalogServiceStub(channel), model)


@pytest.mark.parametrize(("number", "status", "attempt"), [(signal.SIGKILL, -9, 2), (signal.SIGTERM, 0, 1)])
async def test_a_build_goes_on_after_its_builder_ended(
    tmp_path: Path, model: Path, number: signal.Signals, status: int, attempt: int
) -> None:
    process = Process(tmp_path)
    async with grpc.aio.insecure_channel(process.address) as channel:
        client = process.client(channel, model)
        build = await client.submit(request_id="r1")
        await client.until(build.name, RUNNING)
    children = psutil.Process(process.process.pid).children()
    assert process.end(number) == status
    process.start()
    try:
        psutil.wait_procs(children, 30)
        assert not [child for child in children if child.is_running() and _line(child)]
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = process.client(channel, model)
            assert (await client.submit(request_id="r1")).name == build.name
            ended = await client.ended(build)
            events = await client.events(build.name)
    finally:
        process.end(signal.SIGKILL)
    assert (ended.state, ended.engine, ended.attempt) == (SUCCEEDED, "demo@1", attempt)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [event.build.state for event in events if event.WhichOneof("event") == "build"]
    assert states == [QUEUED, RUNNING, QUEUED, RUNNING, SUCCEEDED]
