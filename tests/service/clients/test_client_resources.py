"""Builds, engines and sessions through the client, with scripted services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.client import (
    Cancelled,
    Client,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Retry,
    Unavailable,
    Unreachable,
)
from sinkserve.engine.v1 import engine_pb2
from tests.fakes.scripted_builder import STAGES, ScriptedBuilder, start_scripted_builder
from tests.fakes.scripted_runtime import ScriptedRuntime, start_scripted_runtime

FAST = Retry(first_s=0.001, longest_s=0.01, give_up_after_s=1)
SPEC = engine_pb2.ModelSpec(name="demo")
EVENTS = 2 + 2 * len(STAGES)


@pytest.fixture
async def builder() -> ScriptedBuilder:
    return ScriptedBuilder()


@pytest.fixture
async def client(builder: ScriptedBuilder) -> AsyncIterator[Client]:
    building = await start_scripted_builder(builder)
    running = await start_scripted_runtime(ScriptedRuntime())
    async with Client(
        running.address,
        building.address,
        runtime_admin=running.address,
        builder_admin=building.address,
        retry=FAST,
    ) as client:
        yield client
    await running.stop(0)
    await building.stop(0)


async def test_a_build_is_submitted_watched_and_published(client: Client) -> None:
    build = await client.builds.submit(SPEC)
    events = [event async for event in client.builds.watch(build.name)]
    assert len(events) == EVENTS
    assert events[-1].build.engine == "demo@1"
    assert (await client.builds.wait(build.name)).engine == "demo@1"


async def test_the_same_request_id_gives_the_same_build_and_others_do_not(client: Client) -> None:
    first = await client.builds.submit(SPEC, request_id="mine")
    assert (await client.builds.submit(SPEC, request_id="mine")).name == first.name
    assert (await client.builds.submit(SPEC)).name != (await client.builds.submit(SPEC)).name


@pytest.mark.parametrize("lose_after", range(1, EVENTS + 1))
async def test_a_watch_that_is_lost_misses_and_repeats_nothing(
    client: Client, builder: ScriptedBuilder, lose_after: int
) -> None:
    build = await client.builds.submit(SPEC)
    watch = client.builds.watch(build.name)
    builder.lose_after = lose_after
    sequences = []
    async for event in watch:
        sequences.append(event.sequence)
        if len(sequences) >= lose_after:
            builder.lose_after = None
    assert [sequence for sequence in sequences if sequence] == list(range(1, 2 * len(STAGES) + 2))


async def test_a_builder_that_stays_away_ends_the_watch(client: Client, builder: ScriptedBuilder) -> None:
    build = await client.builds.submit(SPEC)
    builder.lose_after = 1
    with pytest.raises(Unavailable):
        _ = [event async for event in client.builds.watch(build.name, after_sequence=10_000)]
    assert len(builder.watches) > 2


async def test_waiting_for_a_build_raises_what_it_failed_of(client: Client) -> None:
    build = await client.builds.submit(engine_pb2.ModelSpec(name="broken"))
    with pytest.raises(InvalidArgument) as caught:
        await client.builds.wait(build.name)
    assert caught.value.reason == "CONFIG_UNSUPPORTED"
    assert caught.value.violations[0].field == "config.hidden_act"


async def test_a_build_is_cancelled_once(client: Client) -> None:
    build = await client.builds.submit(SPEC)
    assert (await client.builds.cancel(build.name)).state == pb.Build.STATE_CANCELLED
    with pytest.raises(FailedPrecondition):
        await client.builds.cancel(build.name)
    with pytest.raises(Cancelled):
        await client.builds.wait(build.name)


async def test_lists_follow_their_pages(client: Client) -> None:
    names = [(await client.builds.submit(SPEC)).name for _ in range(3)]
    assert [build.name async for build in client.builds.list()] == names[::-1]
    await client.builds.cancel(names[1])
    assert [build.name async for build in client.builds.list(state="cancelled")] == names[1:2]
    assert [build.name async for build in client.builds.list(name="demo")] == names[::-1]
    assert [build async for build in client.builds.list(name="other")] == []
    for session_id in ("a", "b", "c"):
        async with client.conversation("demo", session_id=session_id, labels={"id": session_id}):
            pass
    assert [session.name async for session in client.sessions.list(labels={"id": "b"})] == ["sessions/b"]
    assert len([session async for session in client.sessions.list(engine="demo", labels={})]) == 3
    assert [session async for session in client.sessions.list(engine="other")] == []
    assert [session.name async for session in client.sessions.list()] == ["sessions/a", "sessions/b", "sessions/c"]


async def test_engines_are_found_verified_named_and_deleted(client: Client) -> None:
    await client.builds.wait((await client.builds.submit(SPEC)).name)
    assert (await client.engines.get("demo")).reference == "demo@1"
    assert [engine.reference async for engine in client.engines.list("demo")] == ["demo@1"]
    assert [engine.reference async for engine in client.engines.list("other")] == []
    assert (await client.engines.verify("demo")).files == 2
    assert (await client.engines.set_alias("demo@1", "good")).version == 1
    await client.engines.set_alias("demo@1", "better")
    assert [alias.alias for alias in await client.engines.aliases("demo")] == ["better", "good"]
    await client.engines.delete_alias("demo", "good")
    with pytest.raises(FailedPrecondition):
        await client.engines.delete("demo@1")
    await client.engines.delete("demo@1", force=True)
    with pytest.raises(NotFound):
        await client.engines.get("demo")


async def test_garbage_is_counted_then_collected(client: Client) -> None:
    counted = await client.engines.collect_garbage(dry_run=True)
    assert (counted.deleted_blobs, counted.deleted_bytes, counted.claimed_blobs) == (3, 3000, 1)
    assert await client.engines.collect_garbage() == counted
    assert (await client.engines.collect_garbage()).deleted_blobs == 0


async def test_engines_are_loaded_and_unloaded(client: Client) -> None:
    assert (await client.engines.load("demo@1")).reference == "demo@1"
    await client.engines.load("other@1")
    assert [engine.reference for engine in await client.engines.loaded()] == ["demo@1", "other@1"]
    await client.engines.unload("demo@1")
    with pytest.raises(NotFound):
        await client.engines.unload("demo@1")


async def test_sessions_are_shown_and_deleted(client: Client) -> None:
    async with client.conversation("demo", session_id="a", labels={"topic": "cats"}) as conversation:
        await (await conversation.say("hello there")).wait()
    assert (await client.sessions.get("sessions/a")).labels == {"topic": "cats"}
    assert [turn.reply async for turn in client.sessions.turns("sessions/a")] == ["hello there "]
    await client.sessions.delete("sessions/a")
    with pytest.raises(NotFound):
        await client.sessions.get("sessions/a")


async def test_sessions_are_changed(client: Client) -> None:
    hour = 3600.0
    await client.sessions.create("demo", session_id="a", labels={"topic": "cats"}, delete_after_idle_s=hour)
    session = await client.sessions.update("sessions/a", labels={"topic": "dogs", "tone": "calm"})
    assert session.labels == {"topic": "dogs", "tone": "calm"}
    assert session.options.delete_after_idle_duration.seconds == hour
    session = await client.sessions.update("sessions/a", delete_after_idle_s=2.5)
    assert session.options.delete_after_idle_duration.ToMilliseconds() == 2500
    session = await client.sessions.update("sessions/a", labels={}, delete_after_idle_s="never")
    assert not session.labels
    assert not session.options.HasField("delete_after_idle_duration")
    with pytest.raises(TypeError, match="labels, delete_after_idle_s"):
        await client.sessions.update("sessions/a")


async def test_addresses_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_CLIENT_RUNTIME", "127.0.0.1:2")
    monkeypatch.setenv("SINKSERVE_CLIENT_BUILDER", "127.0.0.1:1")
    async with Client() as client:
        assert (client.runtime_address, client.builder_address) == ("127.0.0.1:2", "127.0.0.1:1")
        with pytest.raises(Unreachable) as caught:
            await client.builds.get("builds/a")
    assert caught.value.address == "127.0.0.1:1"


def test_a_client_that_is_made_outside_the_event_loop_belongs_to_the_first_that_uses_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    client = Client(address, "127.0.0.1:1")

    async def talk() -> str:
        async with client.conversation("demo") as conversation:
            turn = await conversation.say("hello you")
            await turn.wait()
            return turn.text

    async def serve_and_talk() -> str:
        running = await start_scripted_runtime(ScriptedRuntime(), address)
        try:
            return await talk()
        finally:
            await client.close()
            await running.stop(0)

    assert asyncio.run(serve_and_talk())
    with pytest.raises(RuntimeError, match="belongs to the event loop that used it first"):
        asyncio.run(talk())
