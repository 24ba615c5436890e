"""Names that no database may get, at the wire: refused with field and value, the same whatever the database is."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.db.database import connect
from common.db.schema import upgrade
from common.digest import digest_of
from common.settings import SharedSettings
from sinkserve.builder.v1 import builder_service_pb2 as build_pb
from sinkserve.builder.v1 import catalog_service_pb2 as catalog_pb
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.servers.databases import KINDS, new_database_url
from tests.service.builder.builder import BuilderClient, refused
from tests.service.runtime.runtime import Bench

Calls = dict[str, Callable[[], Any]]
BAD = ["a\x00b", "a\nb", "a\x1b[2Jb", "a\x9bb", "a\u202eb", "a\u2028b"]


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with new_database_url(request.param, tmp_path_factory.mktemp("database")) as url:
        upgrade(database := connect(url))
        database.close()
        yield url


@pytest.fixture
async def bench(tmp_path: Path, url: str) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, {"engines": (), "load_on_demand": True}, url)
    bench.publish()
    await bench.start()
    yield bench
    await bench.stop()


@pytest.fixture
async def client(tmp_path: Path, url: str) -> AsyncIterator[BuilderClient]:
    settings = BuilderSettings.load({"listen": "127.0.0.1:0"})
    builder = await start_builder(settings, SharedSettings.load({"home": tmp_path, "database_url": url}))
    async with grpc.aio.insecure_channel(builder.admin_address) as channel:
        yield BuilderClient.on(channel, tmp_path)
    await builder.stop()


def of_builder(client: BuilderClient, bad: str) -> Calls:
    """A call for each name that a builder takes, by the field at fault."""
    builds, catalog = client.builds, client.catalog
    source = engine_pb2.Source(uri=f"/models/{bad}")
    return {
        "request_id": lambda: client.submit(request_id=bad),
        "spec.name": lambda: client.submit(client.spec(bad)),
        "spec.source.uri": lambda: client.submit(client.spec(source=source)),
        "name (build)": lambda: builds.GetBuild(build_pb.GetBuildRequest(name=f"builds/{bad}")),
        "name (builds)": lambda: builds.ListBuilds(build_pb.ListBuildsRequest(name=bad)),
        "name (engines)": lambda: catalog.ListEngines(catalog_pb.ListEnginesRequest(name=bad)),
        "name (aliases)": lambda: catalog.ListAliases(catalog_pb.ListAliasesRequest(name=bad)),
        "name (alias)": lambda: catalog.DeleteAlias(catalog_pb.DeleteAliasRequest(name=bad, alias="a")),
        "alias": lambda: catalog.SetAlias(catalog_pb.SetAliasRequest(reference="demo", alias=bad)),
        "reference": lambda: catalog.GetEngine(catalog_pb.GetEngineRequest(reference=bad)),
        "page_token": lambda: catalog.ListAliases(
            catalog_pb.ListAliasesRequest(name="demo", page_token=_token("aliases demo", bad))
        ),
    }


def _token(listing: str, key: str) -> str:
    data = json.dumps([digest_of(listing.encode())[-16:], key])
    return base64.urlsafe_b64encode(data.encode()).decode()


def of_runtime(bench: Bench, session: str, bad: str) -> Calls:
    """The same of a runtime."""
    stub, new = bench.stub, {"engine": "demo"}
    return {
        "new_session.session_id": lambda: stub.CreateSession(_create(session_id=bad, **new)),
        "new_session.labels": lambda: stub.CreateSession(_create(labels={bad: "1"}, **new)),
        "new_session.labels['a']": lambda: stub.CreateSession(_create(labels={"a": bad}, **new)),
        "new_session.engine": lambda: stub.CreateSession(_create(engine=bad)),
        "name": lambda: stub.GetSession(pb.GetSessionRequest(name=f"sessions/{bad}")),
        "labels": lambda: stub.ListSessions(pb.ListSessionsRequest(labels={bad: "1"})),
        "engine": lambda: stub.ListSessions(pb.ListSessionsRequest(engine=bad)),
        "turn_id (cancel)": lambda: stub.CancelTurn(pb.CancelTurnRequest(session=session, turn_id=bad)),
        "turn_id (pin)": lambda: stub.PinTurn(pb.PinTurnRequest(session=session, turn_id=bad)),
        "turn_id (unpin)": lambda: stub.UnpinTurn(pb.UnpinTurnRequest(session=session, turn_id=bad)),
        "turn_id (rewind)": lambda: stub.RewindSession(pb.RewindSessionRequest(name=session, turn_id=bad)),
        "turn_id (fork)": lambda: stub.ForkSession(pb.ForkSessionRequest(name=session, turn_id=bad)),
    }


def _create(**new_session: Any) -> pb.CreateSessionRequest:
    return pb.CreateSessionRequest(new_session=pb.NewSession(**new_session))


async def test_a_builder_refuses_names_with_controls(client: BuilderClient) -> None:
    for bad in BAD:
        await _check(of_builder(client, bad), {"INVALID_FIELD", "INVALID_SPEC", "INVALID_ALIAS"})


async def test_a_runtime_refuses_names_with_controls(bench: Bench) -> None:
    session = (await bench.stub.CreateSession(_create(engine="demo"))).session.name
    for bad in BAD:
        await _check(of_runtime(bench, session, bad), {"INVALID_FIELD"})
        stream = await bench.resumed(session)
        await stream.turn(bad)
        assert (await stream.rejected()).error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        await stream.half_close()


async def _check(calls: Calls, reasons: set[str]) -> None:
    for what, call in calls.items():
        refusal = await refused(call())
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT, what
        assert refusal.reason in reasons, what
        field = what.partition(" ")[0]
        assert refusal.fields == [field], what
        assert field in refusal.message, what
        assert refusal.message.isprintable(), "the value is shown, and is harmless"


async def test_a_turn_whose_text_has_nul_is_kept(bench: Bench) -> None:
    """What is said is no name: it is bytes for the model, whatever they are."""
    stream = await bench.opened(system_prompt="a\x00b")
    await stream.turn("1", text="hello\x00you", generation={"stop": ["\x00\x00"]})
    await stream.finished()
    await stream.half_close()
    await bench.restart()
    (turn,) = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))).turns
    assert turn.text == "hello\x00you"


async def test_any_script_names_a_label_and_a_turn(bench: Bench) -> None:
    label = {"città": "नई दिल्ली", "emoji": "👩‍🚀", "فارسی": "می‌خواهم"}
    stream = await bench.opened(labels=label)
    await stream.turn("tour n° 1 — ①")
    await stream.finished()
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.labels == label
