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
from common.store import open_store
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import catalog_service_pb2 as cat
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.engine.v1 import engine_pb2
from tests.checkpoints import write_checkpoint
from tests.drafts import Press
from tests.scripted_builds import until

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
        build: pb.Build = (await self.builds.SubmitBuild(request)).build
        return build

    async def get(self, name: str) -> pb.Build:
        build: pb.Build = (await self.builds.GetBuild(pb.GetBuildRequest(name=name))).build
        return build

    def watch(self, name: str, after: int | None = None) -> Any:
        return self.builds.WatchBuild(pb.WatchBuildRequest(name=name, after_sequence=after))

    async def events(self, name: str, after: int | None = None) -> list[pb.WatchBuildResponse]:
        """All events after the snapshot."""
        return [event async for event in self.watch(name, after)][1:]

    async def ended(self, build: pb.Build) -> pb.Build:
        """The build as it is at the end of a watch."""
        changes: list[pb.Build] = [
            event.build async for event in self.watch(build.name) if event.WhichOneof("event") == "build"
        ]
        assert changes[-1] == await self.get(build.name)
        return changes[-1]

    async def built(self, spec: engine_pb2.ModelSpec | None = None) -> pb.Build:
        build = await self.ended(await self.submit(spec))
        assert build.state == SUCCEEDED, build.error
        return build

    async def engine(self, reference: str) -> engine_pb2.Engine:
        request = cat.GetEngineRequest(reference=reference)
        engine: engine_pb2.Engine = (await self.catalog.GetEngine(request)).engine
        return engine

    async def until(self, name: str, state: int) -> pb.Build:
        async for event in self.watch(name):
            found: pb.Build = event.build
            if found.state == state:
                return found
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


@pytest.fixture
def press(builder: BuilderHandle, tmp_path: Path) -> Press:
    """Publishes engines without building them."""
    return Press(builder.database, open_store(str(tmp_path / "home" / "store")), tmp_path)


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
    assert [build.engine for build in (first, second)] == ["demo@1", "other@1"]
    engines = [await client.engine(build.engine) for build in (first, second)]
    assert len({engine.manifest.build_key for engine in engines}) == 1
    assert len({tuple(file.digest for file in engine.manifest.files) for engine in engines}) == 1
    assert engines[0].digest != engines[1].digest
    lines = [event.log.text for event in await client.events(second.name)]
    assert not any("verified" in line for line in lines)
    assert any("is the same; its files are used" in line for line in lines)


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
    return (await until(_children, bool))[0]


async def test_a_killed_build_fails_alone_with_the_signal_as_its_cause(client: Client) -> None:
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


@pytest.mark.parametrize("said", HARM)
async def test_a_bad_checkpoint_fails_its_build_with_the_cause(client: Client, model: Path, said: str) -> None:
    harm, code, reason = HARM[said]
    harm(model)
    build = await client.ended(await client.submit())
    refusal = Refusal.of(build.error, build.error.code)
    assert (build.state, refusal.code, refusal.reason) == (FAILED, code.value[0], reason)
    assert said in refusal.message
    refused = await _refused(client.engine("demo"))
    assert refused.reason == "ENGINE_NOT_FOUND"


async def test_a_source_outside_the_roots_fails_its_build(client: Client, tmp_path: Path) -> None:
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
        (_spec(uri="hf://org/repo"), ["spec.source.uri"]),
    ],
)
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
    client: Client, method: str, request_: object, code: grpc.StatusCode, reason: str
) -> None:
    refused = await _refused(getattr(client.builds, method)(request_))
    assert (refused.code, refused.reason) == (code, reason)


@pytest.mark.parametrize(
    ("name", "after", "reason"),
    [("builds/1f", None, "BUILD_NOT_FOUND"), ("x", None, "INVALID_FIELD"), ("builds/1f", -1, "INVALID_FIELD")],
)
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
    build = await client.submit()
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    watched = [event async for event in client.watch(build.name, 1000)]
    assert [(event.sequence, event.build) for event in watched] == [(0, await client.get(build.name))]


async def test_a_watcher_that_leaves_leaves_nothing(client: Client, builder: BuilderHandle) -> None:
    await client.submit()
    build = await client.submit(client.spec("queued"))
    alone = builder.changes.waiting
    watches = [client.watch(build.name) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).sequence == 0
    await until(lambda: builder.changes.waiting, lambda waiting: waiting >= alone + len(watches))
    for watch in watches:
        watch.cancel()
    await client.ended(build)
    await until(lambda: builder.changes.waiting, lambda waiting: waiting == 1)  # the worker's own


async def test_aliases_are_set_moved_listed_and_deleted(client: Client, press: Press) -> None:
    press.publish()
    press.publish()
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
        assert (refused.code, refused.reason, refused.fields) == (INVALID, "INVALID_ALIAS", ["alias"])


async def test_engines_are_listed_by_pages(client: Client, press: Press) -> None:
    for name in ("b", "a", "b"):
        press.publish(name)
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2))
    assert [engine.reference for engine in page.engines] == ["a@1", "b@2"]
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(page_size=2, page_token=page.next_page_token))
    assert [engine.reference for engine in page.engines] == ["b@1"]
    assert not page.next_page_token
    page = await client.catalog.ListEngines(cat.ListEnginesRequest(name="a"))
    assert [engine.reference for engine in page.engines] == ["a@1"]


async def test_a_deleted_engine_takes_along_what_no_other_needs(client: Client, press: Press) -> None:
    press.publish("a", {"weights.bin": b"shared", "model.onnx": b"one"})
    press.publish("b", {"weights.bin": b"shared", "model.onnx": b"two"})
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="a@1"))
    verified = await client.catalog.VerifyEngine(cat.VerifyEngineRequest(reference="b"))
    assert (verified.files, verified.size_bytes) == (2, 9)
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="b@1"))
    assert list(press.store.digests()) == []
    assert press.publish("b").reference == "b@2"


async def test_an_engine_in_use_is_deleted_only_by_force(client: Client, press: Press) -> None:
    press.catalog.hold(press.publish(), "runtime 127.0.0.1:50071")
    refused = await _refused(client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo@1")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_IN_USE")
    assert "runtime 127.0.0.1:50071" in refused.message
    refused = await _refused(client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo", force=True)))
    assert (refused.code, refused.fields) == (INVALID, ["reference"])
    await client.catalog.DeleteEngine(cat.DeleteEngineRequest(reference="demo@1", force=True))


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
        status = self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

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
