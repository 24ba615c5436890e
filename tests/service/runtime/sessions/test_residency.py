"""Where caches go and how they come back: every way says what a session that never left its slot would have said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest

from common.store.object_store import open_object_store
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench, Stream, eventually

TEXTS = ("one fine day", "two of them", "three in a row")
KV: dict[str, Any] = {"durability": pb.SessionOptions.DURABILITY_TOKENS_AND_KV}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, {"snapshot_turns": 0})
    bench.publish()
    await bench.start()
    yield bench
    if bench.channel is not None:
        await bench.channel.close()
    await bench.stop()


async def _ended(stream: Stream) -> None:
    await stream.half_close()
    await stream.rest()


async def _talked(bench: Bench, session_id: str = "s", **options: Any) -> None:
    """All but the last of TEXTS, and the stream is over."""
    stream = await bench.opened(session_id=session_id, options=pb.SessionOptions(**options))
    for number, text in enumerate(TEXTS[:-1]):
        await stream.said(str(number), text)
    await _ended(stream)


async def _stays(bench: Bench) -> None:
    """Nothing happens to it."""


async def _parks(bench: Bench) -> None:
    """Others take all slots: its cache goes to host memory."""
    await asyncio.gather(*(_talked(bench, f"other-{number}") for number in range(4)))


async def _spills(bench: Bench) -> None:
    """There is no host memory: its cache goes to the local disk."""
    assert bench.handle.engines.loaded[0].limits.parked_bytes == 0
    await _parks(bench)
    assert bench.handle.engines.loaded[0].thread.scheduler.moves.spilled


async def _leaves(bench: Bench) -> None:
    """Only one session has room in memory."""
    await _talked(bench, "other")
    assert [live.session.session_id for live in bench.handle.sessions.live] == ["other"]


async def _server_restarts(bench: Bench) -> None:
    """Only what is stored is left."""
    await bench.restart()


@dataclass(frozen=True)
class Way:
    """What happens to a session's cache, and in which state it is then."""

    happens: Callable[[Bench], Awaitable[None]]
    state: str
    settings: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    recomputed: bool = False

    def __str__(self) -> str:
        return "-".join((self.happens.__name__.lstrip("_"), *self.settings, *self.options))


WAYS = (
    Way(_stays, "RESIDENT"),
    Way(_parks, "PARKED"),
    Way(_spills, "STORED", {"parked_bytes": 0}),
    Way(_leaves, "STORED", {"max_sessions": 1}),
    Way(_leaves, "STORED", {"max_sessions": 1}, KV),
    Way(_server_restarts, "STORED", recomputed=True),
    Way(_server_restarts, "STORED", options=KV),
)


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_cache_comes_back_from_wherever_it_went(bench: Bench, way: Way) -> None:
    expected = await bench.said(*TEXTS)
    await bench.restart(**way.settings)
    await _talked(bench, **way.options)
    await way.happens(bench)
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
    assert session.state == pb.Session.State.Value(f"STATE_{way.state}")
    fed = _fed(bench)
    stream = Stream(bench.stub.Converse())
    opened = await stream.resume("sessions/s")
    assert opened.kv_recomputed is way.recomputed
    assert await stream.said("last", TEXTS[-1]) == expected
    usage = stream.events[-1].finished.usage
    again = _fed(bench) - fed - usage.prompt_tokens - usage.generated_tokens
    assert (again > 1) is way.recomputed, "all but a pending token"


def _fed(bench: Bench) -> int:
    return sum(len(feed.tokens) for step in bench.engines[0].steps for feed in step)


async def test_a_cache_for_which_there_is_no_room_anywhere_is_computed_again(bench: Bench) -> None:
    expected = await bench.said(*TEXTS)
    await bench.restart(parked_bytes=0, parked_file_bytes=0)
    await _talked(bench)
    await _parks(bench)
    moves = bench.handle.engines.loaded[0].thread.scheduler.moves
    assert (moves.spilled, moves.dropped > 0) == (0, True)
    assert await (await bench.resumed("sessions/s")).said("last", TEXTS[-1]) == expected
    assert moves.replayed


async def test_snapshots_are_kept_every_few_turns_and_gone_with_their_session(bench: Bench) -> None:
    await bench.restart(snapshot_turns=2, durability="tokens_and_kv")
    stream = await bench.opened(session_id="s")
    for number in range(5):
        await stream.said(str(number), TEXTS[0])

    async def stored() -> bool:
        return len(_objects(bench)) == 2

    await eventually(stored)
    await _ended(stream)
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    assert _objects(bench) == []


async def test_a_session_may_ask_for_less_than_the_server_keeps(bench: Bench) -> None:
    await bench.restart(durability="tokens_and_kv")
    stream = Stream(bench.stub.Converse())
    options = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_TOKENS)
    opened = await stream.open(options=options)
    assert opened.session.options.durability == pb.SessionOptions.DURABILITY_TOKENS
    default = await Stream(bench.stub.Converse()).open()
    assert default.session.options.durability == pb.SessionOptions.DURABILITY_TOKENS_AND_KV
    await stream.said("1", TEXTS[0])
    await bench.stop()
    assert _objects(bench) == []


async def test_a_snapshot_that_is_damaged_costs_a_replay_and_nothing_else(bench: Bench) -> None:
    expected = await bench.said(*TEXTS)
    await bench.restart()
    await _talked(bench, **KV)
    await bench.stop()
    store = open_object_store(bench.shared.store)
    for key in _objects(bench):
        obstore.put(store, key, b"not what it was")
    bench.engines.clear()
    await bench.start()
    assert await (await bench.resumed("sessions/s")).said("last", TEXTS[-1]) == expected
    assert bench.handle.engines.loaded[0].thread.scheduler.moves.replayed


async def test_a_history_too_long_to_replay_goes_on_from_its_snapshot(bench: Bench) -> None:
    await _talked(bench, **KV)
    await _talked(bench, "t")
    await bench.restart(max_replay_tokens=8)
    await (await bench.resumed("sessions/s")).said("last", TEXTS[-1])
    stream = bench.stream()
    await stream.send(open=pb.Open(session="sessions/t"))
    assert (await stream.failure())[1] == "REPLAY_TOO_LONG"


def _objects(bench: Bench) -> list[str]:
    store = open_object_store(bench.shared.store)
    return [item["path"] for batch in obstore.list(store, prefix="sessions") for item in batch]
