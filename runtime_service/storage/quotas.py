"""What quotas are compared with where all runtimes of a database count together. Calls block."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, select

from common.auth.quotas import Quotas, check_quota
from common.db.database import Database
from runtime_service.storage.tables import sessions
from runtime_service.storage.usage import used_in_minute

_SESSIONS_RETRY_S = 1.0
_MINUTE_S = 60


def check_sessions(connection: Connection, principal: str, quotas: Quotas) -> None:
    """Raise ResourceExhausted (QUOTA_EXCEEDED) if a principal may have no more sessions.

    True until the end of a transaction that is the only one of its kind (`Database.write`).
    """
    if quotas.sessions is not None:
        mine = select(func.count()).select_from(sessions).where(sessions.c.principal == principal)
        check_quota("sessions", quotas.sessions, connection.execute(mine).scalar_one(), _SESSIONS_RETRY_S)


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
