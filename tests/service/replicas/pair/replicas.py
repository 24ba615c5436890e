"""Several runtimes on one database and one store: any of them serves any session, and one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import grpc
from sqlalchemy import update

from common.db.database import connect, database_time
from runtime_service.storage.tables import replicas
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import Bench

TAKEN_OVER = (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")


@dataclass
class Replicas:
    """Two of them."""

    here: Bench
    there: Bench

    async def forget_lease(self, bench: Bench) -> None:
        """As if it had been paused for longer than its lease."""
        await self.pause(bench)
        end_lease(bench, bench.handle.shared.claims.replica)

    async def pause(self, bench: Bench) -> None:
        """It says no more that it is alive, and hands nothing over; its streams and its engine go on."""
        tasks = bench.handle.membership.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def end_lease(bench: Bench, replica: str) -> None:
    """As if a replica on the database of `bench` had said nothing for long."""
    database = connect(bench.shared.database)
    with database.write() as connection:
        past = database_time(connection) - timedelta(seconds=1)
        connection.execute(update(replicas).where(replicas.c.replica == replica).values(lease_expires=past))
    database.close()


async def history(bench: Bench, session: str) -> list[str]:
    """Ids of all turns."""
    return [turn.turn_id for turn in (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns]
