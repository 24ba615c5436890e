"""What quotas of builds and engines are compared with. All functions work inside the caller's transaction.

True until the end of a transaction that is the only one of its kind (`Database.write`).
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

from sqlalchemy import Connection, and_, func, select

from builder_service.queue.build import State
from builder_service.queue.tables import builds
from common.auth.quotas import Quotas, QuotasOf, check_quota
from common.catalog.rows import owned_bytes
from common.spec.published_engine import PublishedEngine

FULL_RETRY_S = 30.0
"""Seconds after which a client should try again when the queue, or what one may have of it, is full."""


def check_submission(connection: Connection, principal: str, quotas: Quotas) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal may have no more builds waiting, or engines."""
    if quotas.queued_builds is not None:
        mine = and_(builds.c.principal == principal, builds.c.state == State.QUEUED.value)
        waiting = connection.execute(select(func.count()).select_from(builds).where(mine)).scalar_one()
        check_quota("queued_builds", quotas.queued_builds, waiting, FULL_RETRY_S)
    if quotas.engine_bytes is not None:
        check_quota("engine_bytes", quotas.engine_bytes, owned_bytes(connection, principal), FULL_RETRY_S)


def check_published(connection: Connection, engine: PublishedEngine, quotas: Quotas) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if an engine that was just published is more than its owner may have.

    One that adds no bytes is not.
    """
    if quotas.engine_bytes is None:
        return
    before = owned_bytes(connection, engine.owner, but_for=engine)
    if more := owned_bytes(connection, engine.owner) - before:
        check_quota("engine_bytes", quotas.engine_bytes, before, FULL_RETRY_S, more)


class RunningBuilds:
    """Of each principal, counted when first asked for."""

    def __init__(self, connection: Connection, quotas_of: QuotasOf) -> None:
        self._connection = connection
        self._quotas_of = quotas_of

    def has_enough(self, principal: str) -> bool:
        """Whether no more of its builds may run now."""
        most = self._quotas_of(principal).running_builds
        return most is not None and self._counts[principal] >= most

    @cached_property
    def _counts(self) -> Counter[str]:
        query = select(builds.c.principal, func.count()).where(builds.c.state == State.RUNNING.value)
        return Counter(dict(self._connection.execute(query.group_by(builds.c.principal)).all()))
