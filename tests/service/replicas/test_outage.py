"""A database that is away for a while: what runs goes on when it is back, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.db.database import connect
from common.db.schema import upgrade
from common.errors import Reason, Unavailable
from common.settings import SharedSettings
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.snapshots import Snapshots
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2 as pb_runtime
from tests.samples.checkpoints import write_checkpoint
from tests.servers.own_postgres import OwnPostgres, find_tools
from tests.service.builder.builder import SUCCEEDED, BuilderClient
from tests.service.runtime.runtime import Bench, Stream, tokens_of

AWAY_S = 2.0


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    if (tools := find_tools()) is None:
        pytest.skip("no initdb is installed")
    server = OwnPostgres(tools)
    database = connect(server.url)
    upgrade(database)
    database.close()
    yield server
    server.remove()


@pytest.mark.long
async def test_a_build_survives_an_outage(postgres: OwnPostgres, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", hidden=256, layers=4, vocab=16_384, tokenizer=False)
    settings = BuilderSettings(listen="127.0.0.1:0", source_roots=(str(tmp_path),))
    handle = await start_builder(settings, SharedSettings(home=tmp_path / "home", database_url=postgres.url))
    try:
        async with grpc.aio.insecure_channel(handle.address) as channel:
            client = BuilderClient.on(channel, model)
            build = await client.submit()
            await client.until(build.name, 2)
            await _away(postgres)
            found = await _ended(client, build.name)
            assert (found.state, found.engine, found.attempt) == (SUCCEEDED, "demo@1", 1)
    finally:
        await handle.stop()


async def _ended(client: BuilderClient, name: str) -> pb.Build:
    """The build when it has ended; asks again where nobody can tell."""
    while True:
        with away():
            if (found := await client.get(name)).HasField("end_time"):
                return found
        await asyncio.sleep(0.05)


@contextmanager
def away() -> Iterator[None]:
    """Whoever asks for the database is told that it is away."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}:
            raise


async def test_a_conversation_goes_on_after_an_outage_and_no_turn_runs_twice(
    postgres: OwnPostgres, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, {}, postgres.url)
    bench.publish()
    await bench.start()
    try:
        alone = await bench.said("one", "two")
        stream = await bench.opened(session_id="s")
        await stream.turn("1", text="one")
        await stream.finished()
        outage = asyncio.create_task(_away(postgres))
        await asyncio.sleep(AWAY_S / 2)
        again = await _said_at_last(bench, "2", "two")
        await outage
        assert again == alone
    finally:
        if bench.channel is not None:
            await bench.channel.close()
        await bench.stop()


def _lose_once(monkeypatch: pytest.MonkeyPatch, owner: SessionRepository | Snapshots, name: str, *, done: bool) -> None:
    """The connection is lost once in a call, after that was `done` or before."""
    call = getattr(owner, name)
    calls = itertools.count()

    def lose(*values: Any) -> Any:
        if next(calls):
            return call(*values)
        if done:
            call(*values)
        raise Unavailable(Reason.DATABASE_UNAVAILABLE, "the connection was lost")

    monkeypatch.setattr(owner, name, lose)


async def test_a_turn_that_was_kept_although_nobody_could_say_so_runs_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await bench.opened(session_id="s")
    _lose_once(monkeypatch, bench.handle.shared.repository, "add_turn", done=True)
    await stream.turn("1", text="one")
    assert (await stream.rejected()).error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    await stream.turn("2", text="two")
    await stream.turn("1", text="one")
    await stream.half_close()
    ended = [event.finished.turn_id for event in await stream.rest() if event.HasField("finished")]
    assert sorted(ended) == ["1", "2"]
    turns = (await bench.stub.ListTurns(pb_runtime.ListTurnsRequest(session="sessions/s"))).turns
    assert [turn.turn_id for turn in turns] == ["1", "2"]
    assert all(turn.reason == pb_runtime.FINISH_REASON_LENGTH for turn in turns)


@pytest.mark.parametrize(
    ("call", "done"), [("finish_turn", False), ("finish_turn", True), ("history", False), ("load", False)]
)
async def test_a_turn_waits_for_a_database_that_is_away_for_a_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, *, done: bool
) -> None:
    alone = await bench.said("one", "two")
    stream = await bench.opened(session_id="s")
    await stream.turn("1", text="one")
    await stream.finished()
    await bench.stop()
    await bench.start()
    shared = bench.handle.shared
    _lose_once(monkeypatch, shared.caches.snapshots if call == "load" else shared.repository, call, done=done)
    stream = await bench.resumed("sessions/s")
    await stream.turn("2", text="two")
    assert tokens_of(await stream.until("finished")) == alone


async def _said_at_last(bench: Bench, turn_id: str, text: str) -> list[int]:
    """Ask until it is answered, as a client does that retries what is UNAVAILABLE."""
    while True:
        stream = Stream(bench.stub.Converse())
        with away():
            await stream.resume("sessions/s")
            await stream.turn(turn_id, text=text)
            while (kind := (await stream.next()).WhichOneof("event")) not in {"finished", "rejected"}:
                pass
            if kind == "finished":
                return tokens_of(stream.events)
            assert stream.events[-1].rejected.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        await asyncio.sleep(0.1)


async def _away(postgres: OwnPostgres) -> None:
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(postgres.start)
