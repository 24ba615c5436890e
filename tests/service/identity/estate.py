"""What a platform runs for its tenants: two replicas on PostgreSQL, which ask who calls, and Envoy before them.

Everything speaks TLS and shows a certificate: clients to Envoy, and Envoy to the replicas. Who calls is what their
bearer says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.window import Geometry
from runtime_service.scheduling.slots import Tenant
from sinkserve.client import Client, tls_credentials
from sinkserve.client.access.credentials import Token
from tests.samples.identity.certificates import Authority, Pair
from tests.servers.balancers import Envoy, free_address
from tests.servers.databases import new_database_url
from tests.service.identity.conftest import Callers
from tests.service.runtime.runtime import Bench, eventually

NOBODY = "127.0.0.1:1"
TLS = {"sni: runtime": "sni: localhost", "exact: runtime": "exact: localhost"}
STEP_S = 0.015  # as of a real engine, which leaves the processor to others meanwhile
GEOMETRY = Geometry(sinks=2, window=8, chunk=4, slots=4)  # few rows: the fake engine takes longer for more


@dataclass
class Share:
    """Of the slots that are a tenant's where two have turns: how many it wanted, and had, over all steps."""

    wanted: int = 0
    had: int = 0

    def add(self, tenants: Sequence[Tenant]) -> None:
        most = min(len(tenants), GEOMETRY.slots // 2)
        self.wanted += most
        self.had += min(most, sum(tenant.slot is not None and not tenant.suspended for tenant in tenants))


@dataclass
class Estate:
    """Two authorities: of the tenants, and of what the platform runs itself."""

    envoy: Envoy
    benches: dict[str, Bench]
    callers: Callers
    tenants: Authority
    own: Authority
    replica: Pair
    keys: dict[str, str] = field(default_factory=dict)
    """API keys by name, of now."""
    shares: dict[str, Share] = field(default_factory=dict)
    """By principal."""

    def client(self, token: Token | str | None, who: Pair, address: str = "") -> Client:
        """Through Envoy, or to the replica at an address."""
        trusted = tls_credentials(self.own.certificate, who.certificate, who.key)
        return Client(address or self.envoy.address, NOBODY, credentials=trusted, token=token)

    async def serve(self) -> None:
        """Start, and return when Envoy knows that both replicas are ready."""
        for bench in self.benches.values():
            await bench.start()
        await self.envoy.serve(list(self.benches))
        await self.until_healthy()

    async def until_healthy(self) -> None:
        async def healthy() -> bool:
            return await self.envoy.health() == dict.fromkeys(self.benches, "healthy")

        await eventually(healthy)

    async def restart(self, address: str) -> None:
        """A rolling restart's step: the sessions of a replica go to the other, and it comes back."""
        await self.benches[address].restart()
        await self.until_healthy()

    async def rotate(self, overlap: Callable[[], Awaitable[None]]) -> None:
        """Replace all certificates and keys. Old and new keys are both good during `overlap`."""
        self.own.server("next").copy_over(self.replica)
        self.own.server("next").move_to(self.envoy.tls, "server")
        self.own.client("envoy", file="next").move_to(self.envoy.tls, "identity")
        self.callers.issuer.rotate()
        self.callers.jwks.write_bytes(self.callers.issuer.jwks)
        old = self.callers.keys.read_text()
        self.keys = {name: self.callers.key(name) for name in self.keys}
        await overlap()
        self.callers.issuer.forget_old()
        self.callers.jwks.write_bytes(self.callers.issuer.jwks)
        self.callers.keys.write_text(self.callers.keys.read_text().replace(old, ""))

    def watch(self, bench: Bench) -> Callable[[object], None]:
        """What each step of a replica's engine takes, and tells `shares`."""

        def before_step(_feeds: object) -> None:
            time.sleep(STEP_S)
            for principal, tenants in self._with_turns(bench).items():
                self.shares.setdefault(principal, Share()).add(tenants)

        return before_step

    @staticmethod
    def _with_turns(bench: Bench) -> dict[str, list[Tenant]]:
        """In the engine's thread: sessions that have a turn to go on with, by principal."""
        found: dict[str, list[Tenant]] = {}
        for live in bench.handle.sessions.live:
            tenant = live.state.tenant
            if tenant.run is not None and not tenant.paused:
                found.setdefault(tenant.principal, []).append(tenant)
        return found


@asynccontextmanager
async def estate(folder: Path, callers: Callers, max_sessions: int = 16) -> AsyncIterator[Estate]:
    """Running; each replica holds so many sessions in memory."""
    (folder / "envoy" / "tls").mkdir(parents=True)
    tenants, own = Authority(folder / "tenants", "tenants"), Authority(folder / "own", "own")
    replica = own.server("replica")
    tls = {"tls_certificate": replica.certificate, "tls_key": replica.key, "tls_client_ca": own.certificate}
    port = free_address("127.0.1.1").split(":")[1]
    async with AsyncExitStack() as running:
        url = running.enter_context(new_database_url("postgresql", folder, with_schema=True))
        envoy = Envoy(folder / "envoy", {"tls": TLS})
        running.callback(envoy.stop)
        own.server("server").move_to(envoy.tls, "server")
        own.client("envoy", file="identity").move_to(envoy.tls, "identity")
        (envoy.tls / "clients.pem").write_bytes(tenants.certificate.read_bytes())
        (envoy.tls / "runtimes.pem").write_bytes(own.certificate.read_bytes())
        benches = {
            address: Bench(
                folder / "home",
                {"listen": address, "max_sessions": max_sessions, "drain_grace_s": 10},
                database_url=url,
                geometry=GEOMETRY,
                shared_settings={**tls, **callers.settings},
            )
            for address in (f"127.0.1.{number}:{port}" for number in (1, 2))
        }
        next(iter(benches.values())).publish()
        for bench in benches.values():
            running.push_async_callback(bench.stop)
        estate = Estate(envoy, benches, callers, tenants, own, replica)
        for bench in benches.values():
            bench.before_step = estate.watch(bench)
        await asyncio.wait_for(estate.serve(), 60)
        yield estate
