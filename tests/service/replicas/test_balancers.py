"""Replicas behind real Envoy, nginx and HAProxy with the files of `deploy/`; conversations as the SDK holds them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from sinkserve.client import Client, Conversation, GenerationOptions
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.nightly import one_in
from tests.servers.balancers import DEPLOY, KINDS, Envoy, HAProxy, Nginx
from tests.servers.browser import serving, shown
from tests.servers.databases import new_database_url, postgres_url
from tests.servers.grpc_web import GrpcWeb
from tests.servers.node import link_packages
from tests.service.replicas.behind_a_balancer import ENGINE, Replicas, build
from tests.service.replicas.talking import (
    NOBODY,
    SHORT,
    all_finish,
    all_say,
    conversations,
    histories,
    ids,
    opened,
)
from tests.service.runtime.runtime import eventually

LONG = GenerationOptions(temperature=0, max_new_tokens=2000, ignore_eos=True)
COUNT = 8
MANY = 16  # so many that every replica gets some
ENVOY_BY_DAY = pytest.mark.parametrize("replicas", one_in(len(KINDS), KINDS), indirect=True)
OTHERS_LONG = pytest.mark.parametrize("replicas", one_in(len(KINDS), KINDS, pytest.mark.long), indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Behind Envoy on PostgreSQL where there is one, behind the others on SQLite."""
    folder = tmp_path_factory.mktemp(request.param)
    kinds: dict[str, type[Envoy | Nginx | HAProxy]] = {"envoy": Envoy, "nginx": Nginx, "haproxy": HAProxy}
    balancer = kinds[request.param](folder)
    database = "postgresql" if request.param == "envoy" and postgres_url() is not None else "sqlite"
    with new_database_url(database, folder) as url:
        replicas = Replicas(folder, url, balancer)
        build(replicas.shared)
        yield replicas
        replicas.stop()


async def new_sessions_reach(replicas: Replicas, process: int) -> None:
    """Returns when the balancer sends some there."""

    async def one_did() -> bool:
        new = await opened(replicas, COUNT)
        places = await replicas.places()
        return process in {places[session].process for session in new}

    await eventually(one_did)


@ENVOY_BY_DAY
async def test_a_session_stays_where_its_key_leads(replicas: Replicas) -> None:
    await replicas.serve(2)
    new = await opened(replicas, MANY)
    before = await replicas.places()
    async with Client(replicas.balancer.address, NOBODY) as client:
        await asyncio.gather(*(_come_back(client, f"sessions/{session}") for session in new))
        assert {f"sessions/{session}" for session in new} <= {session.name async for session in client.sessions.list()}
    after = await replicas.places()
    assert {session: after[session] for session in new} == {session: before[session] for session in new}
    assert {before[session].process for session in new} == replicas.processes


async def _come_back(client: Client, session: str) -> None:
    assert (await client.sessions.get(session)).name == session
    async with client.conversation(session=session) as conversation:
        await all_say([conversation], "hello", SHORT)


@ENVOY_BY_DAY
async def test_calls_without_the_key_are_spread(replicas: Replicas) -> None:
    await replicas.serve(2)
    session = (await opened(replicas, 1))[0]
    was: set[int] = set()

    async def was_at_both() -> bool:
        async with grpc.aio.insecure_channel(replicas.balancer.address) as channel:
            stub = replicas.stub(channel)
            call = stub.Converse(iter([pb.ConverseRequest(open=pb.Open(session=f"sessions/{session}"))]))
            async for event in call:
                assert event.WhichOneof("event") == "opened"
        was.add((await replicas.places())[session].process)
        return was == replicas.processes

    await eventually(was_at_both)


@pytest.mark.long
@ENVOY_BY_DAY
async def test_a_replica_that_is_not_ready_keeps_nobody_from_a_session(replicas: Replicas) -> None:
    await replicas.serve(2)
    address = replicas.spare[0]
    async with replicas.starting(address) as starting:
        await replicas.balancer.serve([*replicas.running, address])
        opening = asyncio.create_task(opened(replicas, MANY))
        if isinstance(balancer := replicas.balancer, Envoy):
            await eventually(lambda: _is(balancer, address, "failed_active_health_check"))
            await opening  # elsewhere: there it would wait
        starting.may_load.set()
        await opening
        await new_sessions_reach(replicas, os.getpid())


async def _is(balancer: Envoy, address: str, health: str) -> bool:
    return (await balancer.health()).get(address) == health


@pytest.mark.long
@ENVOY_BY_DAY
async def test_a_replica_that_is_added_gets_new_sessions_and_open_conversations_stay(replicas: Replicas) -> None:
    await replicas.serve(2)
    async with conversations(replicas, COUNT) as held:
        before = await replicas.places()
        added = replicas.spare[0]
        await replicas.serve(3)
        await new_sessions_reach(replicas, replicas.running[added].pid)
        await all_say(held, "and now?", SHORT)
        after = await replicas.places()
    assert {session: after[session] for session in ids(held)} == {session: before[session] for session in ids(held)}


@ENVOY_BY_DAY
async def test_turns_of_a_replica_that_is_killed_run_once_elsewhere(replicas: Replicas) -> None:
    await replicas.serve(3)
    async with conversations(replicas, COUNT) as held:
        before = await replicas.places()
        turns = [await conversation.say("go on", **LONG) for conversation in held]
        await anext(aiter(turns[0]))
        victim = replicas.address_of(before[ids(held)[0]].process)
        await replicas.end(victim, signal.SIGKILL)
        await all_finish(turns, LONG)
        assert turns[0].attempt == 2
        await all_say(held, "and now?", SHORT)
        after = await replicas.places()
    for session in ids(held):
        if before[session].process in replicas.processes:
            assert after[session] == before[session]
        assert after[session].process in replicas.processes
    for conversation, turn, history in zip(held, turns, await histories(replicas, held), strict=True):
        assert history[1] == (turn.id, turn.text, LONG["max_new_tokens"]), conversation.session.name
        assert len(history) == 3


@pytest.mark.long
@ENVOY_BY_DAY
async def test_a_replica_that_drains_is_left_without_an_error(replicas: Replicas) -> None:
    await replicas.serve(2)
    async with conversations(replicas, COUNT) as held:
        address = replicas.address_of((await replicas.places())[ids(held)[0]].process)
        if isinstance(replicas.balancer, Nginx):  # it does not ask, so it is told
            await replicas.balancer.serve([other for other in replicas.running if other != address])
        turns = [await conversation.say("go on", **LONG) for conversation in held]
        for turn in turns:
            await anext(aiter(turn))
        ending = asyncio.create_task(replicas.end(address, signal.SIGTERM))
        # HAProxy does not try again what a replica refuses before a check has said that it drains; clients do.
        new = await opened(replicas, MANY, tries=3 if isinstance(replicas.balancer, HAProxy) else 1)
        assert await ending == 0
        await all_finish(turns, LONG)
        assert [turn.attempt for turn in turns] == [1] * COUNT
        await all_say(held, "and now?", SHORT)
        places = await replicas.places()
    assert {places[session].process for session in [*new, *ids(held)]} == replicas.processes
    for turn, history in zip(turns, await histories(replicas, held), strict=True):
        assert history[1] == (turn.id, turn.text, LONG["max_new_tokens"])
        assert len(history) == 3


@pytest.mark.long
async def test_a_replica_that_crashes_twice_in_a_row_is_used_again(replicas: Replicas) -> None:
    await replicas.serve(2)
    async with conversations(replicas, 2) as held:
        victim = next(iter(replicas.running))
        for _ in range(2):
            await replicas.end(victim, signal.SIGKILL)
            await all_say(held, "and now?", SHORT)
            await replicas.start(victim)
        await new_sessions_reach(replicas, replicas.running[victim].pid)
        assert len(await opened(replicas, MANY)) == MANY, "each at the first try"
        await all_say(held, "and now?", SHORT)


@OTHERS_LONG
async def test_a_rolling_restart_under_ten_conversations_costs_no_turn(replicas: Replicas) -> None:
    await replicas.serve(2)
    async with conversations(replicas, 10) as held:
        over = asyncio.Event()
        talks = [asyncio.create_task(_talk_until(over, conversation)) for conversation in held]
        for address in list(replicas.running):
            await replicas.balancer.serve([other for other in replicas.running if other != address])
            assert await replicas.end(address, signal.SIGTERM) == 0
            await replicas.start(address)
            await replicas.balancer.serve(list(replicas.running))
        over.set()
        said = [["hello", *(await talk)] for talk in talks]
        after = await histories(replicas, held)
    assert all(len(turns) > 1 for turns in said)
    assert [[turn_id for turn_id, *_ in turns][1:] for turns in after] == [turns[1:] for turns in said]


async def _talk_until(over: asyncio.Event, conversation: Conversation) -> list[str]:
    """One turn after another, the last of them when it is over; their ids."""
    turns: list[str] = []
    while not over.is_set() or not turns:
        turn = await conversation.say("and now?", **SHORT)
        await all_finish([turn], SHORT)
        turns.append(turn.id)
    return turns


async def test_nothing_but_conversations_passes(replicas: Replicas) -> None:
    await replicas.serve(1)
    unload = engine_pb.UnloadEngineRequest(reference=ENGINE)
    async with grpc.aio.insecure_channel(replicas.balancer.address) as channel:
        engines: Any = EngineServiceStub(channel)
        health: Any = HealthStub(channel)
        calls = [engines.UnloadEngine(unload), engines.ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())]
        for call in (*calls, health.Check(HealthCheckRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await opened(replicas, 1, tries=20)  # HAProxy may not have asked yet whether the replica is ready


@pytest.mark.parametrize("replicas", ["envoy"], indirect=True)
async def test_browsers_talk(replicas: Replicas) -> None:
    await replicas.serve(1)
    service = "sinkserve.runtime.v1.ConversationService"
    web = GrpcWeb(replicas.balancer.address, service, {"sinkserve-session-id": "web"})
    create = pb.CreateSessionRequest(new_session=pb.NewSession(engine=ENGINE, session_id="web"))
    (created,), status = await web.call("CreateSession", create, pb.CreateSessionResponse)
    turn = pb.Turn(turn_id="1", text="hello", generation=pb.GenerationOptions(max_new_tokens=8, ignore_eos=True))
    run = pb.RunTurnRequest(session=created.session.name, turn=turn)
    events, ran = await web.call("RunTurn", run, pb.ConverseResponse)
    assert (status, ran) == ("0", "0")
    assert events[-1].finished.usage.generated_tokens == 8
    assert isinstance(replicas.balancer, Envoy)
    allowed = await web.preflight("RunTurn", f"http://127.0.0.1:{replicas.balancer.page_port}")
    assert {"sinkserve-session-id", "x-grpc-web", "authorization", "traceparent"} <= {
        name.strip() for name in allowed.split(",")
    }


@pytest.mark.long
@pytest.mark.parametrize("replicas", ["envoy"], indirect=True)
async def test_the_page_talks_in_a_browser(replicas: Replicas, tmp_path: Path) -> None:
    await replicas.serve(1)
    assert isinstance(replicas.balancer, Envoy)
    (tmp_path / "page.html").symlink_to(DEPLOY / "page.html")
    (tmp_path / "protos.binpb").symlink_to(DEPLOY.parent / "protos" / "released.binpb")
    link_packages(tmp_path)
    with serving(tmp_path, replicas.balancer.page_port) as origin:
        asked = {"server": f"http://{replicas.balancer.address}", "engine": ENGINE, "token": "t", "say": "hello"}
        title, log = await asyncio.to_thread(shown, f"{origin}/page.html?{urlencode(asked)}", tmp_path)
    assert title == "ready", log
    async with Client(replicas.balancer.address, NOBODY) as client:
        newest = await anext(client.sessions.list())
        (turn,) = [turn async for turn in client.sessions.turns(newest.name)]
    assert _printable(log) == _printable(turn.reply) != ""


def _printable(text: str) -> str:
    """A model that nobody has trained says anything."""
    return "".join(filter(str.isprintable, text)).strip()
