"""What Prometheus sees of running services: numbers that change with turns and builds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from builder_service.service import BuilderHandle, start_builder
from builder_service.settings import BuilderSettings
from common.settings import SettingsError, SharedSettings
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.cli.services.embedded import embedded_services
from tests.servers.scrape import Scrape, scrape, scraped
from tests.service.builder.builder import FAILED, BuilderClient
from tests.service.runtime.runtime import GEOMETRY, Bench, eventually

ANYWHERE = "127.0.0.1:0"
RUNTIME = "sinkserve_runtime_"
BUILDER = "sinkserve_builder_"


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A runtime that serves metrics."""
    monkeypatch.setenv("SINKSERVE_RUNTIME_METRICS_LISTEN", ANYWHERE)
    bench = Bench(tmp_path, {})
    bench.publish()
    await bench.start()
    yield bench
    await bench.stop()


@pytest.fixture
async def builder(tmp_path: Path) -> AsyncIterator[BuilderHandle]:
    """A builder that serves metrics."""
    settings = BuilderSettings(listen=ANYWHERE, metrics_listen=ANYWHERE, source_roots=(str(tmp_path),))
    handle = await start_builder(settings, SharedSettings(home=tmp_path / "home"))
    yield handle
    await handle.stop()


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        yield f"127.0.0.1:{busy.getsockname()[1]}"


async def _seen(bench: Bench) -> Scrape:
    return await scraped(bench.handle.metrics.address)


async def test_a_turn_is_seen(bench: Bench) -> None:
    await _seen(bench)  # from the next on, counters of an engine that has run nothing are there and zero
    before = await _seen(bench)
    assert before[f"{RUNTIME}slots"] == GEOMETRY.slots
    assert before[f"{RUNTIME}slots_in_use"] == before[f"{RUNTIME}streams"] == 0
    assert before[f"{RUNTIME}generated_tokens_total"] == 0
    stream = await bench.opened()
    await stream.turn(generation={"max_new_tokens": 80, "ignore_eos": True})
    usage = (await stream.finished()).usage
    after = await _seen(bench)
    assert after.by(f"{RUNTIME}slots_in_use", "engine") == {"demo@1": 1}
    assert after[f"{RUNTIME}streams"] == 1
    assert after[f"{RUNTIME}prompt_tokens_total"] == usage.prompt_tokens
    assert after[f"{RUNTIME}generated_tokens_total"] == usage.generated_tokens == 80
    assert after[f"{RUNTIME}evicted_tokens_total"] == usage.evicted_tokens > 0
    ended = {reason: count for reason, count in after.by(f"{RUNTIME}turns_total", "finish_reason").items() if count}
    assert ended == {"LENGTH": 1}
    for name in ("queue", "prefill", "time_to_first_token", "time_per_output_token"):
        assert after[f"{RUNTIME}{name}_seconds_count"] == 1


async def test_a_turn_that_fails_is_seen_with_its_reason(bench: Bench) -> None:
    assert bench.engines
    bench.engines[0].poison = frozenset(range(450))
    stream = await bench.opened()
    await stream.turn()
    await stream.finished()
    assert (await _seen(bench)).by(f"{RUNTIME}turn_errors_total", "reason") == {"NON_FINITE_LOGITS": 1}


async def test_more_sessions_than_slots_are_seen_by_tier(bench: Bench) -> None:
    streams = [await bench.opened() for _ in range(GEOMETRY.slots + 2)]
    for stream in streams:
        await stream.turn()
        await stream.finished()
    seen = await _seen(bench)
    assert seen.by(f"{RUNTIME}sessions", "tier") == {"resident": GEOMETRY.slots, "parked": 2, "stored": 0}
    assert seen[f"{RUNTIME}parked_bytes"] > 0
    assert seen.by(f"{RUNTIME}evictions_total", "to") == {"memory": 2, "disk": 0, "tokens": 0}
    await streams[0].turn()
    await streams[0].finished()
    assert (await _seen(bench)).by(f"{RUNTIME}restores_total", "way") == {"memory": 1, "kept": 0, "replay": 0}


async def test_turns_that_wait_for_a_slot_are_seen_while_the_engine_is_in_a_step(bench: Bench) -> None:
    go_on, in_step = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        in_step.set()
        go_on.wait()

    streams = [await bench.opened() for _ in range(GEOMETRY.slots + 1)]
    bench.before_step = hold
    try:
        for stream in streams:
            await stream.turn()

        async def all_wait() -> bool:
            seen = await _seen(bench)
            return seen[f"{RUNTIME}running_turns"] + seen[f"{RUNTIME}waiting_turns"] == len(streams)

        await eventually(all_wait)
        assert in_step.is_set()
        assert (await _seen(bench))[f"{RUNTIME}waiting_turns"] >= 1
    finally:
        go_on.set()
    for stream in streams:
        await stream.finished()
    seen = await _seen(bench)
    assert seen[f"{RUNTIME}running_turns"] == seen[f"{RUNTIME}waiting_turns"] == 0


@pytest.mark.long
async def test_builds_are_seen_by_state_and_cause(builder: BuilderHandle, client: BuilderClient, model: Path) -> None:
    before = await scraped(builder.metrics.address)
    assert before.by(f"{BUILDER}builds", "state") == dict.fromkeys(
        ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"), 0
    )
    assert before[f"{BUILDER}builders"] == 1
    await client.built()
    (model / "config.json").write_text("{")
    assert (await client.ended(await client.submit(client.spec("other")))).state == FAILED
    after = await scraped(builder.metrics.address)
    states = after.by(f"{BUILDER}builds", "state")
    assert {state: count for state, count in states.items() if count} == {"SUCCEEDED": 1, "FAILED": 1}
    assert after.by(f"{BUILDER}builds_ended_total", "reason") == {"": 1, "CHECKPOINT_INVALID": 1}
    assert after.by(f"{BUILDER}build_seconds_count", "state") == {"SUCCEEDED": 1, "FAILED": 1}
    assert after[f"{BUILDER}oldest_queued_seconds"] == 0


async def test_a_cancelled_build_is_seen(builder: BuilderHandle, client: BuilderClient) -> None:
    build = await client.submit()
    await client.builds.CancelBuild(pb.CancelBuildRequest(name=build.name))
    ended = (await scraped(builder.metrics.address)).all(f"{BUILDER}builds_ended_total")
    assert ended[frozenset({("state", "CANCELLED"), ("reason", "BUILD_CANCELLED")})] == 1


async def test_services_in_one_process_count_for_themselves(bench: Bench, builder: BuilderHandle) -> None:
    for address, own in ((bench.handle.metrics.address, RUNTIME), (builder.metrics.address, BUILDER)):
        names = {name for name, _ in (await scraped(address)).samples}
        assert any(name.startswith(own) for name in names)
        assert all(name.startswith((own, "process_")) for name in names)


async def test_a_service_that_stopped_serves_no_metrics(bench: Bench) -> None:
    address = bench.handle.metrics.address
    await bench.stop()
    with pytest.raises(OSError, match="refused"):
        await scraped(address)


async def test_without_an_address_there_are_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_RUNTIME_METRICS_LISTEN", "")
    bench = Bench(tmp_path, {})
    bench.publish()
    await bench.start()
    assert bench.handle.metrics.address == ""
    await bench.stop()


async def test_a_taken_address_is_refused_before_anything_starts(tmp_path: Path, taken: str) -> None:
    shared = SharedSettings(home=tmp_path / "home")
    with pytest.raises(OSError, match=f"^SINKSERVE_RUNTIME_METRICS_LISTEN: cannot serve metrics on {taken}"):
        await start_runtime(RuntimeSettings(listen=ANYWHERE, metrics_listen=taken), shared)
    with pytest.raises(OSError, match=f"^SINKSERVE_BUILDER_METRICS_LISTEN: cannot serve metrics on {taken}"):
        await start_builder(BuilderSettings(listen=ANYWHERE, metrics_listen=taken), shared)
    assert not (tmp_path / "home").exists()


async def test_a_service_that_cannot_start_gives_its_address_back(tmp_path: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    shared = SharedSettings(home=tmp_path / "home")
    with pytest.raises(OSError, match=f"cannot listen on {taken}"):
        await start_runtime(RuntimeSettings(listen=taken, metrics_listen=metrics), shared)
    with pytest.raises(OSError, match=f"cannot listen on {taken}"):
        await start_builder(BuilderSettings(listen=taken, metrics_listen=metrics), shared)
    with pytest.raises(OSError, match="refused"):
        await scraped(metrics)


@pytest.mark.long
async def test_embedded_services_serve_no_metrics(tmp_path: Path, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_HOME", str(tmp_path))
    for service in ("BUILDER", "RUNTIME"):
        monkeypatch.setenv(f"SINKSERVE_{service}_METRICS_LISTEN", taken)  # which would be refused
    with embedded_services(tmp_path) as addresses:
        async with grpc.aio.insecure_channel(addresses.runtime) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)


# Logs


def _named(logged: list[Any], event: str) -> list[Any]:
    return [entry for entry in logged if entry["event"] == event]


async def test_logs_name_the_session_and_the_turn(bench: Bench) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no step")

    stream = await bench.opened()
    with capture_logs() as logged:
        await stream.turn("one")
        await stream.finished()
        bench.before_step = fail
        await stream.turn("two")
        await stream.finished()
    ids = [(entry["session"], entry["turn"], entry.get("cause")) for entry in _named(logged, "turn.ended")]
    assert ids == [(stream.session, "one", None), (stream.session, "two", "INTERNAL")]
    (failed,) = _named(logged, "engine.step_failed")
    assert (failed["sessions"], failed["turns"]) == ([stream.session], ["two"])


async def test_logs_name_the_build(client: BuilderClient) -> None:
    async def is_told() -> bool:
        return bool(_named(logged, "build.succeeded"))

    with capture_logs() as logged:
        build = await client.built()
        await eventually(is_told)  # the build has ended before it is told
    told = [(entry["event"], entry["build"]) for entry in logged if entry["event"].startswith("build.")]
    assert told == [("build.started", build.name), ("build.succeeded", build.name)]


@pytest.mark.long
def test_an_operator_reads_logs_as_json(tmp_path: Path) -> None:
    settings = {"HOME": str(tmp_path), "LOG_FORMAT": "json", "RUNTIME_LISTEN": ANYWHERE}
    settings["RUNTIME_METRICS_LISTEN"] = ANYWHERE
    environment = {**os.environ, **{f"SINKSERVE_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "runtime_service"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            listening = json.loads(process.stderr.readline())
            assert listening["event"] == "runtime.listening"
            assert scrape(listening["metrics"])[f"{RUNTIME}streams"] == 0
        finally:
            process.send_signal(signal.SIGTERM)
        assert json.loads(process.stderr.readline())["event"] == "runtime.stopping"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("settings", "variable", "value"),
    [
        (SharedSettings, "SINKSERVE_LOG_FORMAT", "xml"),
        (BuilderSettings, "SINKSERVE_BUILDER_METRICS_LISTEN", "9461"),
        (RuntimeSettings, "SINKSERVE_RUNTIME_METRICS_LISTEN", "localhost:http"),
    ],
)
def test_a_bad_value_names_its_key(settings: Any, variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        settings.load()
