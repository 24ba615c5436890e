"""Replicas that are killed, paused and drained at random, a database and a store that fail, and people who talk on.

What has to hold afterwards: every turn that a client saw end is in its session's history, once, in order and as it was
told; every greedy token is within tolerance of the best one when the whole history is replayed; and no write of a
replica whose epoch was over took effect.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.db.database import connect
from common.db.schema import open_database, upgrade
from common.rpc.wire import spec_to_wire
from common.settings import SharedSettings
from common.spec.yaml_file import read_spec_file
from sinkserve.client import Client
from tests.servers.balancers import Balancer
from tests.service.replicas import audit
from tests.service.replicas.chatter import NOBODY, Chatter
from tests.service.replicas.fleet import Replica, addresses
from tests.service.replicas.judge import Findings, Judge, check_listed

SPEC = Path(__file__).resolve().parents[3] / "demo" / "spec.yaml"
_REFUSED = re.compile(rb"was opened at another server, or deleted")


@dataclass(frozen=True)
class Outage:
    """Something that goes away, for so many seconds, and comes back."""

    name: str
    happen: Callable[[float], Awaitable[None]]
    longest_s: float


@dataclass(frozen=True)
class Plan:
    """How much of everything. Leases and patience are short, so that much happens in little time."""

    folder: Path
    database_url: str
    store_url: str
    outages: Sequence[Outage] = ()
    balancer: Balancer | None = None
    """In front of the replicas; without one, clients know them all."""
    seconds: float = 20.0
    conversations: int = 12
    replicas: int = 2
    lease_s: float = 2.0
    patience_s: float = 8.0
    think_s: float = 0.5
    quiet_s: float = 3.0
    """On average between two blows to one replica, and between two outages."""
    max_sessions: int = 8
    seed: int = 0


@dataclass
class Report:
    """What happened, and what was found."""

    blows: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    fenced: int = 0
    """Writes of an epoch that was over, which were refused."""
    behind: int = 0
    """Turns that stand behind one that was sent with them, and later."""
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)


class Chaos:
    """`run` is all of it."""

    def __init__(self, plan: Plan) -> None:
        self.report = Report()
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._replicas: list[Replica] = []
        self._addresses: list[str] = []
        self._chatters: list[Chatter] = []
        self._calm = asyncio.Event()
        self._may_fall = asyncio.Semaphore(max(1, plan.replicas - 1))

    async def run(self) -> Report:
        """Raises AssertionError for what does not hold."""
        await self._prepare()
        try:
            await asyncio.gather(*(replica.ready() for replica in self._replicas))
            await self._storm()
            async with Client(self._replicas[0].address, NOBODY) as client:
                self.report.behind = await check_listed(client, self._chatters)
        finally:
            await asyncio.gather(*(replica.stop() for replica in self._replicas))
            self._count()
        self.report.findings = await asyncio.to_thread(self._judge)
        assert set(self.report.exits) <= {0, 1, -9}, self.report.exits  # 1: the database was away when it started
        return self.report

    async def _prepare(self) -> None:
        plan = self._plan
        await build_demo(plan)
        database = connect(plan.database_url)
        audit.install(database)
        database.close()
        self._addresses = addresses(plan.replicas)
        for address in self._addresses:
            self._replicas.append(Replica(plan.folder / f"replica-{address}", address, self._settings()))
            self._replicas[-1].start()
        if plan.balancer is not None:
            await plan.balancer.serve(self._addresses)
        self._chatters = [
            Chatter(i, self._at, plan.patience_s, plan.think_s, plan.seed) for i in range(plan.conversations)
        ]

    def _settings(self) -> dict[str, str]:
        """Little room everywhere, so that caches go through every tier."""
        plan = self._plan
        return {
            "SINKSERVE_DATABASE_URL": plan.database_url,
            "SINKSERVE_STORE_URL": plan.store_url,
            "SINKSERVE_RUNTIME_ENGINES": "demo",
            "SINKSERVE_RUNTIME_THREADS": "1",
            "SINKSERVE_RUNTIME_LEASE_S": str(plan.lease_s),
            "SINKSERVE_RUNTIME_DRAIN_GRACE_S": "5",
            "SINKSERVE_RUNTIME_SNAPSHOT_TURNS": "4",
            "SINKSERVE_RUNTIME_MAX_SESSIONS": str(plan.max_sessions),
            "SINKSERVE_RUNTIME_PARKED_BYTES": str(4 << 20),
            "SINKSERVE_RUNTIME_PARKED_FILE_BYTES": str(8 << 20),
        }

    def _at(self, number: int) -> str:
        """The balancer; or all replicas, from another one on for each number: gRPC takes the first that answers."""
        if self._plan.balancer is not None:
            return self._plan.balancer.address
        start = number % len(self._addresses)
        return "ipv4:" + ",".join(self._addresses[start:] + self._addresses[:start])

    async def _storm(self) -> None:
        """People talk while things fall, and then until each has had all answers."""
        began = time.monotonic()
        talks = asyncio.gather(*(chatter.run() for chatter in self._chatters))
        falls = asyncio.gather(*(self._torment(replica) for replica in self._replicas), self._fail())
        await asyncio.wait([talks, falls], timeout=self._plan.seconds, return_when=asyncio.FIRST_COMPLETED)
        self._calm.set()
        await falls
        self.report.seconds = time.monotonic() - began
        for chatter in self._chatters:
            chatter.stop()
        await talks
        await asyncio.gather(*(replica.ready() for replica in self._replicas))

    async def _quiet(self) -> bool:
        """Wait a while; False: it is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calm.wait(), self._random.uniform(0, 2 * self._plan.quiet_s))
        return not self._calm.is_set()

    async def _torment(self, replica: Replica) -> None:
        """Blows to one replica, never to all at once."""
        longest = 3 * self._plan.lease_s
        blows: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": replica.kill,
            "drain": replica.drain,
            "pause": lambda: replica.pause(self._random.uniform(self._plan.lease_s, longest)),
        }
        while await self._quiet():
            async with self._may_fall:
                await replica.ready()
                name = self._random.choice(list(blows))
                await blows[name]()
                self.report.blows[name] += 1

    async def _fail(self) -> None:
        """Outages of what all replicas need."""
        while self._plan.outages and await self._quiet():
            outage = self._random.choice(self._plan.outages)
            await outage.happen(self._random.uniform(0.5, outage.longest_s))
            self.report.blows[outage.name] += 1

    def _judge(self) -> Findings:
        database = open_database(self._plan.database_url)
        try:
            return Judge(database, self._plan.store_url, self._plan.folder).judge(self._chatters)
        finally:
            database.close()

    def _count(self) -> None:
        for replica in self._replicas:
            self.report.exits += replica.exits
            self.report.fenced += len(_REFUSED.findall(replica.log.read_bytes()))
        for chatter in self._chatters:
            self.report.troubles += chatter.troubles


async def build_demo(plan: Plan) -> None:
    """The demo model's engine, published as demo."""
    shared = SharedSettings(home=plan.folder / "builder", database_url=plan.database_url, store_url=plan.store_url)
    nowhere = {"admin_listen": "", "metrics_listen": ""}
    settings = BuilderSettings.load({"listen": "127.0.0.1:0", **nowhere, "source_roots": (SPEC.parent,)})
    database = connect(plan.database_url)
    upgrade(database)
    database.close()
    handle = await start_builder(settings, shared)
    try:
        async with Client(NOBODY, handle.address) as client:
            build = await client.builds.submit(spec_to_wire(read_spec_file(SPEC)))
            ended = await client.builds.wait(build.name)
            assert ended.engine == "demo@1", ended
    finally:
        await handle.stop()
