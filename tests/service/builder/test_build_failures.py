"""Every cause of docs/use/builder.md, brought about for real: builder, database, build processes."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from builder_service.machine.cgroup import ROOT
from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from builder_service.worker import child_process
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.cli.terminal.failures import HINTS
from sinkserve.client.errors import SinkServeError, from_status
from sinkserve.engine.v1 import engine_pb2
from tests.samples.checkpoints import write_checkpoint
from tests.servers.s3 import Bucket
from tests.service.builder.builder import CANCELLED, FAILED, RUNNING, BuilderClient, Process

Act = Callable[[int], object]
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "use" / "builder.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", re.MULTILINE)
"""Reason and code of a row in its failure table."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 MiB of weights: there is time to do something to a build of it."""
    folder = tmp_path_factory.mktemp("large") / "model"
    return write_checkpoint(folder, hidden=512, layers=1, vocab=32_768, dtype="bfloat16", tokenizer=False)


@pytest.fixture
def busy(large: Path, tmp_path: Path, client: BuilderClient) -> BuilderClient:
    """Its specs name the large checkpoint."""
    return BuilderClient(client.builds, client.catalog, _linked(large, tmp_path))


def _linked(large: Path, folder: Path) -> Path:
    place = folder / "large"
    place.mkdir()
    for path in large.iterdir():
        (place / path.name).hardlink_to(path)
    return place


@asynccontextmanager
async def _building(folder: Path, model: Path, store_url: str = "", **settings: Any) -> AsyncIterator[BuilderClient]:
    """A client of a builder with settings of its own."""
    chosen = BuilderSettings(listen="127.0.0.1:0", source_roots=(str(folder),), **settings)
    handle = await start_builder(chosen, SharedSettings(home=folder / "home", store_url=store_url))
    try:
        async with grpc.aio.insecure_channel(handle.address) as channel:
            yield BuilderClient.on(channel, model)
    finally:
        await handle.stop()


def _cause(build: pb.Build, state: int = FAILED) -> SinkServeError:
    """What a build says of its end; every cause has these parts."""
    assert build.state == state, build
    error = from_status(build.error)
    assert (error.reason, error.code.name) in ROW.findall(GUIDE.read_text()), "the guide says both"
    assert error.message
    return error


async def _failed(client: BuilderClient, act: Act | None = None, **changes: Any) -> SinkServeError:
    """Why a build failed; `act` is done to its process when that begins to write weights."""
    build = await client.submit(client.spec(**changes))
    async for event in client.watch(build.name):
        if act is not None and event.progress.stage == pb.Build.STAGE_QUANTIZE:
            act(_child())
            act = None
    return _cause(await client.get(build.name))


def _child() -> int:
    """The build's process."""
    return next(child.pid for child in psutil.Process().children() if child_process.COMMAND[-1] in child.cmdline())


async def test_a_broken_tensor_is_named_with_its_file(client: BuilderClient, model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, model / "model.safetensors")
    error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CHECKPOINT_INVALID")
    assert (error.metadata["file"], error.metadata["tensor"]) == ("model.safetensors", "model.norm.weight")
    assert "finite" in error.message


def _edit(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


async def test_an_unknown_architecture_is_named(client: BuilderClient, model: Path) -> None:
    _edit(model, architectures=["BertModel"])
    error = await _failed(client)
    assert (error.reason, "BertModel" in error.message) == ("ARCHITECTURE_UNSUPPORTED", True)


async def test_an_unknown_field_of_the_config_is_named(client: BuilderClient, model: Path) -> None:
    _edit(model, new_maths=1)
    error = await _failed(client)
    assert (error.reason, "new_maths" in error.message) == ("CONFIG_UNSUPPORTED", True)


async def test_a_spec_that_does_not_suit_the_model_is_named_with_its_field(client: BuilderClient, model: Path) -> None:
    _edit(model, max_position_embeddings=15)
    error = await _failed(client)
    assert (error.reason, "window_tokens" in error.message) == ("INVALID_SPEC", True)


async def test_a_missing_file_is_named(client: BuilderClient, model: Path) -> None:
    (model / "model.safetensors").unlink()
    error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND")
    assert "model.safetensors" in error.message


async def test_a_source_outside_the_roots_is_refused_with_the_roots(client: BuilderClient, tmp_path: Path) -> None:
    error = await _failed(client, source=engine_pb2.Source(uri="/etc"))
    assert (error.reason, str(tmp_path) in error.message) == ("SOURCE_NOT_ALLOWED", True)


async def test_a_target_that_this_machine_cannot_compile_for_is_refused(client: BuilderClient) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may compile for it")
    changes: dict[str, Any] = {
        "target": engine_pb2.TARGET_TENSORRT,
        "precision": engine_pb2.PRECISION_FP16,
    }
    error = await _failed(client, **changes)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_INCOMPATIBLE")


async def test_what_cannot_fit_is_refused_before_it_begins(large: Path, tmp_path: Path) -> None:
    async with _building(tmp_path, _linked(large, tmp_path), memory_limit_mib=400) as client:
        error = await _failed(client)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
        assert error.metadata["stage"] == "PLAN"
        assert int(error.metadata["free_bytes"]) <= 400 * 2**20 < int(error.metadata["estimate_bytes"])
        tiny = write_checkpoint(tmp_path / "model", tokenizer=False)
        needed = await BuilderClient(client.builds, client.catalog, tiny).built()
        assert needed.engine == "demo@1", "what fits is built beneath the same limit"


def _no_more_memory(process: int) -> None:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.prlimit(process, resource.RLIMIT_DATA, (used + 2**20, used + 2**20))


async def test_a_build_that_gets_no_more_memory_fails_alone_with_the_figures(busy: BuilderClient) -> None:
    error = await _failed(busy, _no_more_memory)
    _check_memory(error)
    assert "ran out of memory" in error.message
    assert (await busy.built()).engine == "demo@1", "the next one succeeds"


def _check_memory(error: SinkServeError) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    figures = {name: int(error.metadata[f"{name}_bytes"]) for name in ("estimate", "peak", "limit")}
    assert min(figures.values()) > 2**20, figures
    assert error.metadata["stage"]
    for name, size in figures.items():
        assert f"{name} {size / 2**20:,.0f} MiB" in error.message


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with room for 48 MiB, of either version."""
    limits = {"memory.max": 48 * 2**20, "memory.swap.max": 0}
    legacy = {"memory.limit_in_bytes": 48 * 2**20}
    for parent, files in ((ROOT, limits), (ROOT / "memory", legacy)):
        if (folder := _make_group(parent, files)) is not None:
            yield folder
            while (folder / "cgroup.procs").read_text():
                time.sleep(0.01)
            folder.rmdir()
            return
    pytest.skip("no memory control group can be made here")


def _make_group(parent: Path, files: dict[str, int]) -> Path | None:
    folder = parent / f"sinkserve-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    if not (folder / next(iter(files))).exists():  # a folder like any other: nothing that limits is mounted here
        folder.rmdir()
        return None
    for name, size in files.items():
        if (folder / name).exists():
            (folder / name).write_text(str(size))
    return folder


async def test_a_build_that_the_kernel_killed_for_memory_says_so(busy: BuilderClient, group: Path) -> None:
    error = await _failed(busy, lambda process: (group / "cgroup.procs").write_text(str(process)))
    _check_memory(error)
    assert "the kernel killed the build for want of memory" in error.message
    assert (await busy.built()).engine == "demo@1", "the next one succeeds"


def _no_more_disk(process: int) -> None:
    resource.prlimit(process, resource.RLIMIT_FSIZE, (2**20, 2**20))


async def test_a_file_that_may_not_grow_is_a_full_disk(busy: BuilderClient, tmp_path: Path) -> None:
    error = await _failed(busy, _no_more_disk)
    _check_disk(error, tmp_path / "home" / "work")
    assert (await busy.built()).engine == "demo@1", "the next one succeeds"


def _check_disk(error: SinkServeError, folder: Path) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_DISK")
    assert error.metadata["path"].startswith(str(folder))
    assert int(error.metadata["needed_bytes"]) > 100 * 2**20
    assert str(folder) in error.message
    assert list(folder.iterdir()) == [], "nothing is left behind"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 MiB as the builder's home."""
    home = tmp_path / "home"
    home.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(home))
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield home
    subprocess.run(("umount", "--lazy", str(home)), check=True)


async def test_a_disk_that_others_fill_meanwhile_is_named_and_cleaned(
    large: Path, tmp_path: Path, small_disk: Path
) -> None:
    async with _building(tmp_path, _linked(large, tmp_path)) as client:
        error = await _failed(client, lambda _process: _fill(small_disk))
        _check_disk(error, small_disk / "work")
        (small_disk / "filler").unlink()
        assert (await client.built()).engine == "demo@1", "the next one succeeds"


def _fill(disk: Path) -> None:
    """Leave 8 MiB, which the database needs. What a build writes meanwhile may have taken the room that was seen."""
    with (disk / "filler").open("wb") as file:
        while True:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - 8 * 2**20))
                return


async def test_a_full_disk_is_named_before_anything_is_written(large: Path, tmp_path: Path, small_disk: Path) -> None:
    async with _building(tmp_path, _linked(large, tmp_path)) as client:
        _fill(small_disk)
        error = await _failed(client)
    _check_disk(error, small_disk / "work")
    assert error.metadata["stage"] == "PLAN"


async def test_a_cancelled_build_says_so(client: BuilderClient) -> None:
    build = await client.submit()
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    error = _cause(await client.ended(build), CANCELLED)
    assert (error.code, error.reason) == (grpc.StatusCode.CANCELLED, "BUILD_CANCELLED")
    assert error.metadata["build"] == build.name


async def test_a_build_that_takes_too_long_says_how_long_it_had(tmp_path: Path, model: Path) -> None:
    async with _building(tmp_path, model, build_timeout_s=0.2) as client:
        error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BUILD_TIMED_OUT")
    assert "0.2 s" in error.message


TAMPERED = """
from builder_service.pipeline import child
from builder_service.pipeline import export
write_model = export.write_model
def tamper(*args, **named):
    write_model(*args, **named)
    path = args[4] / {file!r}
    {harm}
export.write_model = tamper
child.main()
"""


def _tamper(monkeypatch: pytest.MonkeyPatch, file: str, harm: str) -> None:
    """Let build processes spoil what they exported."""
    code = TAMPERED.format(file=file, harm=harm)
    monkeypatch.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", code))


async def test_an_engine_whose_numbers_are_wrong_says_by_how_much(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = "import numpy; path.write_bytes((numpy.fromfile(path, 'f4') * numpy.float32(1.05)).tobytes())"
    with monkeypatch.context() as patched:
        _tamper(patched, "weights.bin", scale)
        error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERIFICATION_FAILED")
    assert float(error.metadata["value"]) > float(error.metadata["bound"])
    assert error.metadata["figure"] in error.message
    assert (await client.built()).engine == "demo@1", "the wrong one was not published"


async def test_a_graph_that_the_toolchain_does_not_take_comes_with_its_words(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tamper(monkeypatch, "model.onnx", "path.write_bytes(b'rubbish')")
    error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOOLCHAIN_FAILED")
    assert "protobuf" in error.message.lower()


SPOILED = """
from builder_service.pipeline import child
from builder_service.pipeline import pipeline
publish_files = pipeline.publish_files
def spoil(order, plan, files, parent):
    with (plan.out / "weights.bin").open("r+b") as file:
        file.write(bytes(64))
    publish_files(order, plan, files, parent)
pipeline.publish_files = spoil
child.main()
"""


async def test_a_file_that_changes_on_its_way_to_the_store_is_not_published(
    client: BuilderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(child_process, "COMMAND", (sys.executable, "-P", "-c", SPOILED))
        error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
    assert "weights.bin" in error.message
    assert (await client.built()).engine == "demo@1", "nothing of the wrong one was stored"


async def test_a_store_that_cannot_be_used_says_which_and_why(tmp_path: Path, model: Path, bucket: Bucket) -> None:
    missing = bucket.url.replace(bucket.name, f"{bucket.name}-missing")
    async with _building(tmp_path, model, missing) as client:
        error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORE_UNAVAILABLE")
    assert error.metadata["store"] in error.message
    assert "bucket does not exist" in error.message


async def test_a_crash_says_its_signal_and_where(busy: BuilderClient) -> None:
    error = await _failed(busy, lambda process: os.kill(process, signal.SIGSEGV))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "BUILD_CRASHED")
    assert (error.metadata["signal"], error.metadata["stage"]) == ("SIGSEGV", "QUANTIZE")
    assert "killed by SIGSEGV, in QUANTIZE" in error.message
    assert (await busy.built()).engine == "demo@1", "the next one succeeds"


async def test_a_build_whose_builders_died_under_it_says_how_often(large: Path, tmp_path: Path) -> None:
    model = _linked(large, tmp_path)
    process = Process(tmp_path)
    name = ""
    for _ in range(3):
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = BuilderClient.on(channel, model)
            name = name or (await client.submit()).name
            await client.until(name, RUNNING)
            process.end(signal.SIGKILL)
        process.start()
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            client = BuilderClient.on(channel, model)
            error = _cause(await client.ended(await client.get(name)))
            assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "WORKER_LOST")
            assert error.metadata == {"attempts": "3", "retry": "never"}
    finally:
        process.end(signal.SIGKILL)


async def test_a_fault_of_the_builder_says_nothing_of_its_inside(
    client: BuilderClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not-python").write_text("")
    with monkeypatch.context() as patched:
        patched.setattr(child_process, "COMMAND", (str(tmp_path / "not-python"),))
        error = await _failed(client)
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert str(tmp_path) not in error.message
    assert (await client.built()).engine == "demo@1", "the builder goes on"


CAUSES: dict[str, tuple[Callable[..., object], ...]] = {
    "SOURCE_NOT_FOUND": (test_a_missing_file_is_named,),
    "SOURCE_NOT_ALLOWED": (test_a_source_outside_the_roots_is_refused_with_the_roots,),
    "CHECKPOINT_INVALID": (test_a_broken_tensor_is_named_with_its_file,),
    "ARCHITECTURE_UNSUPPORTED": (test_an_unknown_architecture_is_named,),
    "CONFIG_UNSUPPORTED": (test_an_unknown_field_of_the_config_is_named,),
    "INVALID_SPEC": (test_a_spec_that_does_not_suit_the_model_is_named_with_its_field,),
    "ENGINE_INCOMPATIBLE": (test_a_target_that_this_machine_cannot_compile_for_is_refused,),
    "OUT_OF_MEMORY": (
        test_what_cannot_fit_is_refused_before_it_begins,
        test_a_build_that_gets_no_more_memory_fails_alone_with_the_figures,
        test_a_build_that_the_kernel_killed_for_memory_says_so,
    ),
    "OUT_OF_DISK": (
        test_a_full_disk_is_named_before_anything_is_written,
        test_a_disk_that_others_fill_meanwhile_is_named_and_cleaned,
    ),
    "TOOLCHAIN_FAILED": (test_a_graph_that_the_toolchain_does_not_take_comes_with_its_words,),
    "VERIFICATION_FAILED": (test_an_engine_whose_numbers_are_wrong_says_by_how_much,),
    "STORE_UNAVAILABLE": (test_a_store_that_cannot_be_used_says_which_and_why,),
    "STORE_CORRUPT": (test_a_file_that_changes_on_its_way_to_the_store_is_not_published,),
    "BUILD_CANCELLED": (test_a_cancelled_build_says_so,),
    "BUILD_TIMED_OUT": (test_a_build_that_takes_too_long_says_how_long_it_had,),
    "BUILD_CRASHED": (test_a_crash_says_its_signal_and_where,),
    "WORKER_LOST": (test_a_build_whose_builders_died_under_it_says_how_often,),
    "INTERNAL": (test_a_fault_of_the_builder_says_nothing_of_its_inside,),
}
"""The tests that cause it for real, one for each row of a reason in the failure table of docs/use/builder.md."""


def test_every_row_of_the_guide_is_caused_here_and_every_cause_has_its_row() -> None:
    rows = [reason for reason, _ in ROW.findall(GUIDE.read_text())]
    assert rows == [reason for reason, tests in CAUSES.items() for _ in tests]


def test_every_cause_comes_with_a_hint_but_those_that_say_themselves_what_to_do() -> None:
    assert CAUSES.keys() - HINTS.keys() == {"INVALID_SPEC", "ENGINE_INCOMPATIBLE", "STORE_UNAVAILABLE", "INTERNAL"}
