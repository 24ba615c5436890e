"""What quotas are compared with where all runtimes of a database count together. Calls block."""

from __future__ import annotations

from datetime import datetime
from itertools import accumulate, islice

from sqlalchemy import Connection, func, select

from common.auth.quotas import Quotas, check_quota
from common.db.database import Database
from runtime_service.domain.session import Session
from runtime_service.storage.tables import sessions, snapshots
from runtime_service.storage.usage import used_in_minute

_SESSIONS_RETRY_S = 1.0
_BYTES_RETRY_S = 30.0
_MINUTE_S = 60


def check_sessions(connection: Connection, principal: str, quotas: Quotas) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal may have no more sessions.

    True until the end of a transaction that is the only one of its kind (`Database.write`).
    """
    if quotas.sessions is not None:
        mine = select(func.count()).select_from(sessions).where(sessions.c.principal == principal)
        check_quota("sessions", quotas.sessions, connection.execute(mine).scalar_one(), _SESSIONS_RETRY_S)


def superseded_snapshots(connection: Connection, session: Session, size_bytes: int, quotas: Quotas) -> list[str]:
    """Which of a session's snapshots have to go for a new one: the oldest, as far as its principal may not have both.

    Raises ResourceExhausted (QUOTA_EXCEEDED) if there is no room although all of them go.
    """
    if (most := quotas.snapshot_bytes) is None:
        return []
    query = select(func.coalesce(func.sum(snapshots.c.size_bytes), 0)).join(sessions)
    others = query.where(sessions.c.principal == session.principal, snapshots.c.session_key != session.key)
    used = int(connection.execute(others).scalar_one())
    check_quota("snapshot_bytes", most, used, _BYTES_RETRY_S, size_bytes)
    own = select(snapshots.c.object_key, snapshots.c.size_bytes).where(snapshots.c.session_key == session.key)
    newest_first = connection.execute(own.order_by(snapshots.c.position.desc(), snapshots.c.created_at.desc())).all()
    with_each = accumulate((size for _, size in newest_first), initial=used + size_bytes)
    return [key for (key, _), total in zip(newest_first, islice(with_each, 1, None), strict=True) if total > most]


class QuotaChecks:
    """Costs a read where a principal has such a quota, else nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check_sessions(self, principal: str, quotas: Quotas) -> None:
        """As the function does, before anything is done for a new session; another may still come first."""
        with self._database.read() as connection:
            check_sessions(connection, principal, quotas)

    def check_tokens(self, principal: str, quotas: Quotas, now: datetime) -> None:
        """Raise ResourceExhausted (QUOTA_EXCEEDED) until the next minute if the tokens of this one are used up."""
        with self._database.read() as connection:
            prompt, generated = used_in_minute(connection, principal, now)
        rest_s = _MINUTE_S - now.timestamp() % _MINUTE_S
        check_quota("input_tokens_per_minute", quotas.input_tokens_per_minute, prompt, rest_s)
        check_quota("output_tokens_per_minute", quotas.output_tokens_per_minute, generated, rest_s)
