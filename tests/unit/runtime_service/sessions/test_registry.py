"""Sessions come into memory and leave it, one act at a time for each, and no more of them than may."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from common.auth.quotas import Quotas
from common.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Reason, ResourceExhausted, Unavailable
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import NewSession, SessionOptions
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.registry import SessionRegistry
from tests.fakes.session.parts import Listening, SessionParts, request
from tests.samples.session_examples import NOON, slot_state, turn

WHO = "local"


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.parts = SessionParts(**settings)
        self.registry = SessionRegistry(cast("Any", self.parts), self.parts.shared)

    async def create(self, session_id: str, who: str = WHO, **options: Any) -> Any:
        asked = NewSession("demo", session_id, options=SessionOptions(**options))
        live, _ = await self.registry.create(who, asked)
        return live

    @property
    def ids(self) -> list[str]:
        """Sessions in memory."""
        return [live.session.session_id for live in self.registry.live]


async def test_a_session_is_created_once() -> None:
    bench = Bench()
    live = await bench.create("a")
    again, existed = await bench.registry.create(WHO, NewSession("demo", "a"))
    assert (again, existed) == (live, True)
    with pytest.raises(AlreadyExists) as caught:
        await bench.create("a", window_tokens=4)
    assert caught.value.reason is Reason.SESSION_EXISTS


async def test_requests_for_one_session_at_once_create_it_once() -> None:
    bench = Bench()
    first, second = await asyncio.gather(bench.create("a"), bench.create("a"))
    assert first is second
    assert len(bench.parts.repository.sessions) == 1


async def test_a_session_that_is_not_there_is_not_found() -> None:
    bench = Bench()
    for act in (bench.registry.open, bench.registry.get, bench.registry.delete):
        with pytest.raises(NotFound) as caught:
            await act(WHO, "none")
        assert caught.value.reason is Reason.SESSION_NOT_FOUND


async def test_an_opened_session_runs_what_did_not_end() -> None:
    bench = Bench()
    bench.parts.session("a")
    bench.parts.repository.turns["t1"] = turn(1, token_ids=(5,))
    live = await bench.registry.open(WHO, "a")
    assert [(pending.turn_id, pending.turn.attempt) for pending in live.turns.pending] == [("t1", 2)]
    assert live.session.epoch == 2
    await live.unload()


async def test_a_session_whose_cache_cannot_be_had_is_refused_and_let_go() -> None:
    bench = Bench()
    bench.parts.repository.sessions[WHO, "a"] = replace(bench.parts.session("a"), position=10_000)
    bench.parts.engine.limits = replace(bench.parts.engine.limits, max_replay_tokens=3)
    with pytest.raises(FailedPrecondition) as caught:
        await bench.registry.open(WHO, "a")
    assert (caught.value.reason, bench.parts.claims.released, bench.ids) == (Reason.REPLAY_TOO_LONG, ["a"], [])
    bench.parts.caches.found = slot_state()
    assert not (await bench.registry.open(WHO, "a")).recomputes


async def test_a_session_that_was_lost_meanwhile_is_claimed_again() -> None:
    bench = Bench()
    old = await bench.create("a")
    stream = Listening()
    old.subscribe(stream)
    assert await bench.registry.open(WHO, "a") is old
    bench.parts.claims.lost.add("a")
    again = await bench.registry.open(WHO, "a")
    assert again is not old
    assert (old.closed, stream.told) == (True, [Reason.SESSION_TAKEN_OVER])


async def test_the_longest_unopened_makes_room_unless_it_is_used() -> None:
    bench = Bench(max_sessions=2)
    for name in ("a", "b"):
        await bench.create(name)
    await bench.registry.open(WHO, "a")
    await bench.create("c")
    assert bench.ids == ["a", "c"]
    for live in bench.registry.live:
        live.subscribe(Listening())
    with pytest.raises(ResourceExhausted) as caught:
        await bench.create("d")
    assert caught.value.reason is Reason.CAPACITY_EXHAUSTED


async def test_a_session_of_which_nothing_is_kept_makes_no_room() -> None:
    bench = Bench(max_sessions=1)
    await bench.create("a", durability=Durability.NONE)
    with pytest.raises(ResourceExhausted):
        await bench.create("b")


async def test_one_principal_cannot_fill_the_server_for_others() -> None:
    bench = Bench(max_sessions=4)
    streams = [Listening() for _ in range(4)]
    for name, stream in zip("abcd", streams, strict=True):
        live = await bench.create(name, "greedy", durability=Durability.NONE)
        if name != "c":
            live.subscribe(stream)
    (await bench.create("x", "modest")).subscribe(Listening())  # the one without a stream leaves first
    assert bench.ids == ["a", "b", "d", "x"]
    (await bench.create("y", "modest")).subscribe(Listening())
    assert (bench.ids, streams[0].told) == (["b", "d", "x", "y"], [Reason.CAPACITY_EXHAUSTED])
    for who in ("modest", "greedy"):  # each has its half
        with pytest.raises(ResourceExhausted):
            await bench.create("z", who, durability=Durability.NONE)
    await bench.create("z", "late")
    assert bench.ids == ["d", "x", "y", "z"]


async def test_one_who_has_all_that_a_quota_allows_gets_room_from_itself_alone() -> None:
    bench = Bench(max_sessions=9)
    two = Quotas(sessions_in_memory=2)
    await bench.create("x", "other")
    for name in "abc":
        await bench.registry.create(WHO, NewSession("demo", name), quotas=two)
    assert bench.ids == ["x", "b", "c"]
    live = await bench.registry.open(WHO, "a", quotas=two)
    assert bench.ids == ["x", "c", "a"]
    live.subscribe(Listening())
    await bench.registry.open(WHO, "b", quotas=two)
    assert bench.ids == ["x", "a", "b"], "the other one is busy"
    bench.registry.live[-1].subscribe(Listening())
    with pytest.raises(ResourceExhausted, match="quota sessions_in_memory: the caller may have 2 and has 2") as caught:
        await bench.registry.open(WHO, "c", quotas=two)
    assert (caught.value.reason, caught.value.retry_after_s) == (Reason.QUOTA_EXCEEDED, 1.0)
    await bench.registry.open(WHO, "c")
    assert bench.ids == ["x", "a", "b", "c"]


async def test_opening_many_at_once_stays_within_a_quota() -> None:
    bench = Bench(max_sessions=9)
    two = Quotas(sessions_in_memory=2)
    create = (bench.registry.create(WHO, NewSession("demo", name), quotas=two) for name in "abcdef")
    ends = await asyncio.gather(*create, return_exceptions=True)
    assert len(bench.ids) == 2
    assert {end.metadata["quota"] for end in ends if isinstance(end, ResourceExhausted)} <= {"sessions_in_memory"}


async def test_a_session_is_deleted_whoever_uses_it() -> None:
    bench = Bench()
    live, stream = await bench.create("a"), Listening()
    live.subscribe(stream)
    await bench.registry.delete(WHO, "a")
    assert (stream.told, bench.ids, bench.parts.repository.sessions) == ([Reason.SESSION_DELETED], [], {})
    assert bench.parts.caches.dropped == ["a"]


async def test_a_session_is_handed_over() -> None:
    bench = Bench()
    live, stream = await bench.create("a"), Listening()
    live.subscribe(stream)
    bench.parts.scheduler.cache = slot_state(2)
    await bench.registry.hand_over((WHO, "a"))
    assert (stream.told, bench.ids, "a" in bench.parts.claims.released) == ([Reason.SESSION_TAKEN_OVER], [], True)
    assert bench.parts.caches.kept == [None], "a file would be of no use to others"


@pytest.mark.parametrize("used", [True, False])
async def test_sessions_whose_time_has_passed_are_deleted_unless_they_are_used(*, used: bool) -> None:
    bench = Bench()
    live = await bench.create("a")
    if used:
        live.subscribe(Listening())
    live.state.session = bench.parts.repository.sessions[WHO, "a"] = replace(live.session, expires_at=NOON)
    bench.parts.repository.sessions[WHO, "b"] = replace(bench.parts.session("b"), expires_at=NOON)
    await bench.registry.reap()
    assert list(bench.parts.repository.sessions) == ([(WHO, "a")] if used else [])


async def test_turns_are_cancelled_here_or_where_the_session_is() -> None:
    bench = Bench()
    live = await bench.create("a")
    await live.accept_turn(request("t"), Listening())
    await bench.parts.scheduler.come(1)
    await bench.registry.cancel(WHO, "a", "t", discard=True)
    assert ("cancel", "t", True) in bench.parts.scheduler.calls
    bench.parts.session("b")
    await bench.registry.cancel(WHO, "b", "t", discard=False)
    assert bench.parts.claims.cancels == [("t", False)]
    await live.unload()


async def test_a_drain_waits_for_turns_then_ends_every_stream() -> None:
    bench = Bench()
    live, stream = await bench.create("a"), Listening()
    live.subscribe(stream)
    await live.accept_turn(request("t"), stream)
    await bench.parts.scheduler.come(1)
    draining = asyncio.create_task(bench.registry.drain(3600.0))
    await asyncio.sleep(0)
    assert (stream.told[-1], draining.done()) == (("drain", 3600.0), False)
    bench.parts.scheduler.end()
    await draining
    assert (stream.kinds, stream.told[-1], bench.ids) == (["TurnFinished"], Reason.DRAINING, [])
    with pytest.raises(Unavailable) as caught:
        await bench.create("b")
    assert caught.value.reason is Reason.DRAINING


async def test_sessions_of_an_engine_leave_with_it() -> None:
    bench = Bench()
    live, stream = await bench.create("a"), Listening()
    live.subscribe(stream)
    bench.parts.scheduler.cache = state = slot_state(live.session.position)
    await bench.registry.evacuate(bench.parts.engine)
    assert (bench.ids, stream.told) == ([], [Reason.ENGINE_NOT_LOADED])
    assert bench.parts.caches.kept == [state]


async def test_a_session_that_cannot_be_written_leaves_memory() -> None:
    bench = Bench()
    live, stream = await bench.create("a"), Listening()
    live.subscribe(stream)
    bench.parts.repository.failures = [Aborted(Reason.SESSION_TAKEN_OVER, "another server has it")]
    with pytest.raises(Aborted):
        await live.accept_turn(request("t"), stream)
    await bench.parts.shared.background.wait()
    assert (bench.ids, stream.told[-1]) == ([], Reason.SESSION_TAKEN_OVER)


async def test_what_is_known_of_a_session_is_where_its_cache_is() -> None:
    bench = Bench()
    bench.parts.session("b")
    live = await bench.create("a")
    live.state.tenant.slot = 0
    assert (await bench.registry.get(WHO, "a"))[1] is Residence.RESIDENT
    assert (await bench.registry.get(WHO, "b"))[1] is Residence.STORED


@pytest.mark.parametrize(
    ("position", "durability", "put", "copied"),
    [
        (2, Durability.TOKENS, [2], []),
        (9, Durability.TOKENS, [], []),
        (9, Durability.TOKENS_AND_KV, [], [("a", "f")]),
    ],
)
async def test_a_fork_gets_the_cache_that_fits_it(
    position: int, durability: Durability, put: list[int], copied: list[tuple[str, str]]
) -> None:
    bench = Bench()
    live = await bench.create("a", durability=durability)
    target = replace(bench.parts.session("f"), epoch=live.session.epoch)
    bench.parts.scheduler.cache = slot_state(position)
    await bench.registry.copy_cache(live.session, target)
    states = bench.parts.caches.files.put_states
    assert [state.position for state in states.values()] == put
    assert bench.parts.caches.snapshots.copies == copied


async def test_a_session_that_fails_after_it_left_does_not_take_the_next_one_with_it() -> None:
    bench = Bench()
    old = await bench.create("a")
    bench.parts.claims.lost.add("a")
    again = await bench.registry.open(WHO, "a")
    bench.parts.repository.failures = [Aborted(Reason.SESSION_TAKEN_OVER, "another server has it")]
    with pytest.raises(Aborted):
        await old.accept_turn(request("t"), Listening())
    await bench.parts.shared.background.wait()
    assert bench.registry.live == [again]
