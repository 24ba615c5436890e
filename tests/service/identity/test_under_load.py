"""Two tenants under load: neither sees, slows or bills the other beyond its share, and no rotation fails a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sinkserve.client import PermissionDenied, SinkServeError, Unauthenticated, Unreachable
from tests.nightly import one_in
from tests.samples.identity.certificates import Pair
from tests.service.identity.conftest import Callers
from tests.service.identity.estate import Estate, estate
from tests.service.identity.tenant import Tenant
from tests.service.identity.test_rotation import presented

ANNS, BOBS = 10, 2
LONG, SHORT = 60, 12  # tokens
POLICY = f"""
rules:
  - {{principals: ["key:ops"], roles: [admin]}}
  - principals: ["jwt:ann"]
    roles: [talk]
    engines: [demo]
    quotas: {{sessions: {ANNS}, waiting_turns: 3, output_tokens_per_minute: 1000000}}
  - {{principals: ["key:bob"], roles: [talk], engines: [demo], quotas: {{sessions: {BOBS}, waiting_turns: {BOBS}}}}}
"""


class Load(NamedTuple):
    """Turns in a row, over as many rotations of all."""

    rounds: int
    rotations: int


@pytest.fixture
async def platform(tmp_path: Path, callers: Callers) -> AsyncIterator[Estate]:
    callers.policy.write_text(POLICY)
    async with estate(tmp_path, callers) as found:
        yield found


@pytest.mark.long
@pytest.mark.parametrize("load", one_in(2, [Load(2, 1), Load(8, 4)]), ids=str)
async def test_two_tenants_under_load(platform: Estate, callers: Callers, load: Load) -> None:
    platform.keys = {name: callers.key(name) for name in ("bob", "ops")}
    first_key = platform.keys["bob"]
    certificates = {name: platform.tenants.client(name) for name in ("ann", "bob")}
    ann = Tenant(platform, "jwt:ann", lambda: callers.issuer.token("ann"), certificates["ann"])
    bob = Tenant(platform, "key:bob", lambda: platform.keys["bob"], certificates["bob"])
    sessions = [f"bob-{number}" for number in range(BOBS)]

    for number in range(ANNS):  # all that she may have
        async with ann.conversation(f"ann-{number}"):
            pass
    over = asyncio.Event()
    greedy = [asyncio.create_task(ann.talk_until(over, f"ann-{number}", LONG)) for number in range(ANNS)]
    prying = asyncio.create_task(ann.pry_until(over, [f"sessions/{session}" for session in sessions]))

    async def bob_talks() -> None:
        await asyncio.gather(*(bob.talk(session, load.rounds, SHORT) for session in sessions))

    for _ in range(load.rotations):
        await platform.rotate(bob_talks)
        for address in platform.benches:
            await asyncio.gather(platform.restart(address), bob_talks())
    over.set()
    await asyncio.gather(*greedy, prying)

    assert not bob.refused
    assert set(ann.refused) == {"sessions", "waiting_turns"}
    for principal, share in platform.shares.items():
        assert share.had > 0.8 * share.wanted, f"{principal} had less than half of the slots, where two have turns"
    await _check_bills(platform, ann, bob)
    await _check_strangers(platform, first_key)
    where = platform.envoy.address
    assert presented(where, platform.own.certificate) == (platform.envoy.tls / "server.pem").read_text()


async def _check_bills(platform: Estate, *tenants: Tenant) -> None:
    ops = platform.own.client("ops")
    for address in platform.benches:
        async with platform.client(lambda: platform.keys["ops"], ops, address) as client:
            found = [each async for each in client.sessions.usage()]
        told = [(each.principal, each.engine, each.turns, each.prompt_tokens, each.generated_tokens) for each in found]
        assert told == sorted(used for tenant in tenants for used in tenant.used)


async def _check_strangers(platform: Estate, old_key: str) -> None:
    """Envoy's certificate stands for nobody, a certificate of another authority opens nothing, old keys are old."""
    bob = platform.tenants.client("bob")

    async def refused(who: Pair, token: str | None, error: type[SinkServeError], why: str) -> None:
        async with platform.client(token, who) as client:
            with pytest.raises(error, match=why):
                await client.sessions.create("demo")

    await refused(bob, None, PermissionDenied, "'cert:envoy' does not have")
    await refused(bob, old_key, Unauthenticated, "CREDENTIALS_INVALID")
    await refused(platform.own.client("bob"), platform.keys["bob"], Unreachable, ".")
