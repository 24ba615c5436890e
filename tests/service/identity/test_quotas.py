"""Two tenants with quotas on two replicas: neither is refused, slowed or billed for what the other does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sinkserve.client import Client, InvalidArgument, PermissionDenied, ResourceExhausted
from tests.servers.databases import new_database_url, one_by_day
from tests.service.identity.conftest import Callers
from tests.service.runtime.runtime import Bench

POLICY = """
rules:
  - {principals: ["key:ops"], roles: [admin]}
  - principals: ["key:*"]
    roles: [talk]
    engines: [demo]
    quotas: {sessions: 3, waiting_turns: 2, output_tokens_per_minute: 1000000}
"""


@dataclass(frozen=True)
class Replicas:
    """Two that hold three sessions each in memory, and clients of each tenant by replica."""

    ann: tuple[Client, Client]
    bob: tuple[Client, Client]
    ops: Client
    first: Bench

    def refusals(self, quota: str) -> float | None:
        """At the first of them."""
        registry = self.first.handle.shared.meter.registry
        return registry.get_sample_value("sinkserve_runtime_quota_refusals_total", {"quota": quota})


@pytest.fixture(params=one_by_day())
async def replicas(request: pytest.FixtureRequest, tmp_path: Path, callers: Callers) -> AsyncIterator[Replicas]:
    callers.policy.write_text(POLICY)
    keys = {name: callers.key(name) for name in ("ann", "bob", "ops")}
    with new_database_url(request.param, tmp_path, with_schema=True) as url:
        async with AsyncExitStack() as running:
            benches = [
                Bench(tmp_path / "home", {"max_sessions": 3}, database_url=url, shared_settings=callers.settings)
                for _ in "12"
            ]
            benches[0].publish()
            for bench in benches:
                await bench.start()
                running.push_async_callback(bench.stop)

            async def client(name: str, bench: Bench) -> Client:
                return await running.enter_async_context(Client(bench.handle.address, "-:1", token=keys[name]))

            one, two = benches
            ann, bob = [(await client(name, one), await client(name, two)) for name in ("ann", "bob")]
            yield Replicas(ann, bob, await client("ops", one), one)


async def _say(client: Client, **options: Any) -> tuple[int, int]:
    """A conversation of one turn; its tokens."""
    async with client.conversation("demo", **options) as conversation:
        usage = (await (await conversation.say("hello", max_new_tokens=5)).wait()).usage
    return usage.prompt_tokens, usage.generated_tokens


async def _billed(client: Client, **only: str) -> list[tuple[str, str, int, tuple[int, int]]]:
    found = [each async for each in client.sessions.usage(**only)]
    return [(each.principal, each.engine, each.turns, (each.prompt_tokens, each.generated_tokens)) for each in found]


async def test_each_is_billed_for_its_own_turns_at_every_replica(replicas: Replicas) -> None:
    ann, bob, ops = replicas.ann, replicas.bob, replicas.ops
    said = [await _say(ann[0]), await _say(ann[1]), await _say(ann[0], durability="none")]
    anns = ("key:ann", "demo@1", 3, (sum(prompt for prompt, _ in said), sum(reply for _, reply in said)))
    bobs = ("key:bob", "demo@1", 1, await _say(bob[1]))
    assert await _billed(ann[1]) == await _billed(ann[0], principal="key:ann") == [anns]
    assert await _billed(bob[0]) == [bobs]
    assert await _billed(ops) == [anns, bobs]
    assert await _billed(ops, principal="key:bob") == [bobs]
    assert await _billed(ops, from_day="2000-01-01", to_day="2000-01-31") == []
    with pytest.raises(PermissionDenied, match="role admin"):
        await _billed(bob[0], principal="key:ann")
    with pytest.raises(InvalidArgument, match="from_day: 'yesterday' is not a day"):
        await _billed(bob[0], from_day="yesterday")


async def _refused(act: Awaitable[object], quota: str) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        await act
    error = caught.value
    assert (error.reason, error.metadata["quota"], error.retry) == ("QUOTA_EXCEEDED", quota, "same")
    assert error.retry_after_s


async def test_sessions_count_at_all_replicas_and_not_for_others(replicas: Replicas) -> None:
    ann, bob = replicas.ann, replicas.bob
    names = [(await client.sessions.create("demo", session_id=str(n))).name for n, client in enumerate((*ann, ann[0]))]
    await _refused(ann[1].sessions.create("demo"), "sessions")
    await _refused(ann[1].sessions.fork(names[0]), "sessions")
    await _refused(ann[0].sessions.create("demo"), "sessions")
    assert replicas.refusals("sessions") == 1, "at the first"
    assert (await ann[1].sessions.create("demo", session_id="0")).name == names[0], "it is there already"
    await bob[1].sessions.create("demo")
    await ann[0].sessions.delete(names[0])
    await ann[1].sessions.create("demo")


async def test_asking_for_too_many_sessions_takes_no_room_from_others(replicas: Replicas) -> None:
    bobs = await replicas.bob[0].sessions.create("demo", session_id="bobs")
    for client in (*replicas.ann, replicas.ann[0]):
        await client.sessions.create("demo")
    for _ in range(3):
        await _refused(replicas.ann[0].sessions.create("demo"), "sessions")
    assert bobs.name in [live.session.name for live in replicas.first.handle.sessions.live]


async def test_sessions_in_memory_leave_for_others_of_the_same_tenant_or_refuse_them(
    replicas: Replicas, callers: Callers
) -> None:
    callers.policy.write_text(POLICY.replace("sessions: 3", "sessions: 3, sessions_in_memory: 1"))
    ann = replicas.ann[0]
    async with ann.conversation("demo", session_id="a"):
        await _refused(ann.conversation("demo", session_id="b").open(), "sessions_in_memory")
        await _say(replicas.bob[0])
    await _say(ann, session_id="b")
    mine = [
        live.session.session_id for live in replicas.first.handle.sessions.live if live.session.principal == "key:ann"
    ]
    assert mine == ["b"]
    async with ann.conversation(session="sessions/a") as conversation:
        await (await conversation.say("hello", max_new_tokens=2)).wait()


async def test_turns_of_one_leave_room_for_those_of_the_other(replicas: Replicas) -> None:
    ann, bob = replicas.ann[0], replicas.bob[0]
    async with ann.conversation("demo") as one, ann.conversation("demo") as other:
        endless = [await each.say("hello", max_new_tokens=5000, ignore_eos=True) for each in (one, other)]
        for turn in endless:
            await anext(aiter(turn))
        await _refused((await one.say("more")).wait(), "waiting_turns")
        assert replicas.refusals("waiting_turns") == 1
        assert await _say(bob) == await _say(bob)
        for turn in endless:
            await turn.cancel()
            await turn.wait()
        await (await one.say("more", max_new_tokens=2)).wait()


async def test_who_may_have_no_tokens_is_refused_turns(replicas: Replicas, callers: Callers) -> None:
    await _say(replicas.ann[0])
    callers.policy.write_text(POLICY.replace("output_tokens_per_minute: 1000000", "input_tokens_per_minute: 0"))
    await _refused(_say(replicas.ann[1]), "input_tokens_per_minute")
