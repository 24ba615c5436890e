"""Two tenants on one builder and one runtime: neither finds or changes what the other has; an admin sees all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from sinkserve.client import AlreadyExists, Client, InvalidArgument, NotFound, ResourceExhausted, SinkServeError
from sinkserve.engine.v1 import engine_pb2
from tests.samples.checkpoints import write_checkpoint
from tests.servers.databases import new_database_url, one_by_day
from tests.service.builder.builder import QUEUED
from tests.service.identity.conftest import Callers
from tests.service.runtime.runtime import Bench

BOUNDED = """
rules:
  - {{principals: ["key:ann"], roles: [talk, build], quotas: {{running_builds: {running}, engine_bytes: 1}}}}
  - {{principals: ["*"], roles: [talk, build]}}
"""


@dataclass(frozen=True)
class Tenants:
    ann: Client
    bob: Client
    ops: Client
    bench: Bench
    model: Path

    def spec(self, name: str) -> engine_pb2.ModelSpec:
        cache = engine_pb2.CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=2)
        return engine_pb2.ModelSpec(name=name, source=engine_pb2.Source(uri=str(self.model)), cache=cache)


@pytest.fixture(params=one_by_day())
async def tenants(request: pytest.FixtureRequest, tmp_path: Path, callers: Callers) -> AsyncIterator[Tenants]:
    """Ann may use the platform's `demo`, Bob only what is his."""
    with new_database_url(request.param, tmp_path, with_schema=True) as url:
        settings = {"load_on_demand": True}
        bench = Bench(tmp_path / "home", settings, database_url=url, shared_settings=callers.settings)
        bench.publish()
        await bench.start()
        model = write_checkpoint(tmp_path / "model")
        builder = await start_builder(BuilderSettings(listen="127.0.0.1:0", source_roots=(tmp_path,)), bench.shared)
        public, admin = bench.handle.address, bench.handle.admin_address

        def client(name: str) -> Client:
            return Client(public, builder.address, runtime_admin=admin, token=callers.key(name))

        async with client("ann") as ann, client("bob") as bob, client("ops") as ops:
            yield Tenants(ann, bob, ops, bench, model)
        await builder.stop()
        await bench.stop()


async def absent(act: Awaitable[object]) -> None:
    with pytest.raises(NotFound):
        await act


async def test_sessions(tenants: Tenants) -> None:
    ann, bob, ops = tenants.ann, tenants.bob, tenants.ops
    async with ann.conversation("demo", session_id="mine") as conversation:
        turn = await conversation.say("hello", max_new_tokens=3)
        await turn.wait()
    name = "sessions/mine"
    for act in (
        bob.sessions.get(name),
        bob.sessions.update(name, labels={"a": "b"}),
        bob.sessions.cancel_turn(name, "x"),
        bob.sessions.fork(name),
        bob.sessions.rewind(name, turn.id),
        bob.sessions.delete(name),
        anext(bob.sessions.turns(name)),
        bob.conversation(session=name).__aenter__(),
        bob.sessions.create("demo"),
    ):
        await absent(act)
    assert [session async for session in bob.sessions.list()] == []
    assert [session.owner async for session in ops.sessions.list()] == ["key:ann"]
    assert (await ops.sessions.get(name)).owner == "key:ann"
    assert [turn.turn_id async for turn in ops.sessions.turns(name)] == [turn.id]
    await absent(ops.conversation(session=name).__aenter__())
    await ops.sessions.update(name, labels={"seen": "yes"})
    assert dict((await ann.sessions.get(name)).labels) == {"seen": "yes"}
    await ops.sessions.delete(name)
    await absent(ann.sessions.get(name))


async def test_an_id_that_several_have_is_ambiguous_to_an_admin(tenants: Tenants) -> None:
    tenants.bench.publish("bobs", owner="key:bob")
    await tenants.ann.sessions.create("demo", session_id="same")
    await tenants.bob.sessions.create("bobs", session_id="same")
    with pytest.raises(InvalidArgument, match="key:ann, key:bob have a sessions/same each"):
        await tenants.ops.sessions.delete("sessions/same")
    await tenants.ops.sessions.create("demo", session_id="same")
    assert (await tenants.ops.sessions.get("sessions/same")).owner == "key:ops"


@pytest.mark.long
async def test_builds(tenants: Tenants) -> None:
    ann, bob, ops = tenants.ann, tenants.bob, tenants.ops
    build = await ann.builds.submit(tenants.spec("anns"), request_id="r")
    for act in (bob.builds.get(build.name), bob.builds.cancel(build.name), bob.builds.wait(build.name)):
        await absent(act)
    assert [found async for found in bob.builds.list()] == []
    assert [found.owner async for found in ops.builds.list()] == ["key:ann"]
    assert (await ann.builds.wait(build.name)).engine == "anns@1"
    with pytest.raises(AlreadyExists, match="ENGINE_NAME_TAKEN"):
        await bob.builds.submit(tenants.spec("anns"))
    same = await bob.builds.wait((await bob.builds.submit(tenants.spec("bobs"), request_id="r")).name)
    assert same.engine == "bobs@1"
    async for event in bob.builds.watch(same.name):
        assert "anns" not in event.log.text


@pytest.mark.long
async def test_builds_beyond_a_quota_wait_or_fail_and_those_of_others_go_past_them(
    tenants: Tenants, callers: Callers
) -> None:
    ann, bob = tenants.ann, tenants.bob
    callers.policy.write_text(BOUNDED.format(running=0))
    waits = await ann.builds.submit(tenants.spec("anns"))
    assert (await bob.builds.wait((await bob.builds.submit(tenants.spec("bobs"))).name)).engine == "bobs@1"
    assert (await ann.builds.get(waits.name)).state == QUEUED
    callers.policy.write_text(BOUNDED.format(running=1))
    with pytest.raises(ResourceExhausted, match="quota engine_bytes: the caller may have 1 and has 0") as caught:
        await ann.builds.wait(waits.name)
    assert (caught.value.reason, caught.value.metadata["quota"]) == ("QUOTA_EXCEEDED", "engine_bytes")
    assert [engine.reference async for engine in ann.engines.list()] == []


async def test_a_snapshot_beyond_a_quota_is_not_kept_and_the_session_goes_on(
    tenants: Tenants, callers: Callers
) -> None:
    bounded = BOUNDED.format(running=1).replace("engine_bytes", "snapshot_bytes")
    callers.policy.write_text(bounded.replace("key:ann", "key:bob"))

    async def say(**target: Any) -> None:
        async with tenants.bob.conversation(**target) as conversation:
            await (await conversation.say("hello", max_new_tokens=3)).wait()

    tenants.bench.publish("bobs", owner="key:bob")
    await say(engine="bobs", session_id="mine", durability="tokens_and_kv")
    await tenants.bench.handle.sessions.hand_over(("key:bob", "mine"))
    registry = tenants.bench.handle.shared.meter.registry
    refused = registry.get_sample_value("sinkserve_runtime_quota_refusals_total", {"quota": "snapshot_bytes"})
    assert refused == 1
    await say(session="sessions/mine")
    assert [turn.turn_id async for turn in tenants.bob.sessions.turns("sessions/mine")]


async def test_engines(tenants: Tenants) -> None:
    ann, bob, ops = tenants.ann, tenants.bob, tenants.ops
    tenants.bench.publish("anns", owner="key:ann")
    tenants.bench.publish("bobs", owner="key:bob")
    for act in (
        bob.engines.get("anns"),
        bob.engines.get("anns@1"),
        bob.engines.verify("anns"),
        bob.engines.aliases("anns"),
        bob.engines.set_alias("anns", "stable"),
        bob.engines.delete("anns@1", force=True),
        bob.engines.delete_alias("anns", "stable"),
        bob.engines.delete("demo@1"),
        ann.engines.delete("demo@1"),
        ann.engines.set_alias("demo", "stable"),
    ):
        await absent(act)
    assert [engine.reference async for engine in bob.engines.list()] == ["bobs@1"]
    assert [engine.reference async for engine in ann.engines.list()] == ["anns@1", "demo@1"]
    assert [engine.owner async for engine in ops.engines.list()] == ["key:ann", "key:bob", "local"]
    with pytest.raises(NotFound) as caught:
        await bob.engines.get("nothing")
    assert "anns" not in caught.value.message
    await ann.engines.set_alias("anns", "stable")
    assert (await ops.engines.get("anns:stable")).version == 1
    await ann.engines.delete("anns@1")
    assert [engine.reference for engine in await bob.engines.loaded()] == []
    assert [engine.reference for engine in await ann.engines.loaded()] == ["demo@1"]


async def test_an_admin_builds_for_the_owner_of_a_name(tenants: Tenants) -> None:
    build = await tenants.ops.builds.submit(tenants.spec("demo"))
    assert build.owner == "local"
    assert (await tenants.ops.builds.wait(build.name)).engine == "demo@2"


@pytest.mark.long
async def test_of_two_who_publish_under_a_new_name_at_once_one_gets_it(tenants: Tenants) -> None:
    builds = [await client.builds.submit(tenants.spec("new")) for client in (tenants.ann, tenants.bob)]
    ends = await asyncio.gather(
        *(who.builds.wait(each.name) for who, each in zip((tenants.ann, tenants.bob), builds, strict=True)),
        return_exceptions=True,
    )
    lost = [end for end in ends if isinstance(end, SinkServeError)]
    assert [end.reason for end in lost] == ["ENGINE_NAME_TAKEN"]


async def test_who_may_not_use_an_engine_any_more_does_not_go_on_with_it(tenants: Tenants, callers: Callers) -> None:
    await tenants.ann.sessions.create("demo", session_id="mine")
    callers.policy.write_text("rules: [{principals: ['*'], roles: [talk]}]")
    await absent(tenants.ann.conversation(session="sessions/mine").__aenter__())
    assert (await tenants.ann.sessions.get("sessions/mine")).engine == "demo@1"
