"""Builds in SQL, for clients: submit, get, list, watch, cancel.

Every change and its event are one transaction. Calls block: from asyncio, use `asyncio.to_thread`. After each commit
`changed` is called with the build's id, and `ended` with the build if it ended, in the thread that made the change.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, RowMapping, and_, func, or_, select

from builder_service.queue.build import Build, State
from builder_service.queue.events import StoredEvent, event_from_json
from builder_service.queue.quotas import FULL_RETRY_S, check_submission
from builder_service.queue.rows import cancel_build, find_build, insert_build, to_build
from builder_service.queue.tables import builds, events
from common.auth.quotas import QuotasOf, unbounded
from common.db.database import Database, stream, utc_now
from common.db.paging import Page, text_bytes
from common.errors import AlreadyExists, Reason, ResourceExhausted
from common.spec.model_spec import ModelSpec

EVENT_PAGE = 200
"""Most events that one read returns."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def _nobody(_build: object) -> None:
    pass


class BuildRepository:
    """Builds in a database. `builder` is this process, which accepts a build if fewer than `most` are queued."""

    def __init__(
        self,
        database: Database,
        builder: str,
        changed: Callable[[str], None] = _nobody,
        most: int = 1000,
        ended: Callable[[Build], None] = _nobody,
        *,
        quotas_of: QuotasOf = unbounded,
    ) -> None:
        self._quotas_of = quotas_of
        self._database = database
        self._builder = builder
        self._changed = changed
        self._most = most
        self._ended = ended

    def submit(
        self,
        principal: str,
        spec: ModelSpec,
        request_id: str = "",
        *,
        new_version: bool = False,
        caller_span: str = "",
    ) -> Build:
        """Create a build, or return the one that this request id created.

        Raises AlreadyExists (REQUEST_ID_REUSED) if that was made for another spec, and ResourceExhausted
        (CAPACITY_EXHAUSTED, QUOTA_EXCEEDED) while too many wait.
        """
        build = Build(uuid.uuid4().hex, principal, spec, utc_now(), new_version=new_version, caller_span=caller_span)
        with self._database.write() as connection:
            if earlier := _of_request(connection, principal, request_id):
                return _same_request(earlier, build, request_id)
            self._check_room(connection)
            check_submission(connection, principal, self._quotas_of(principal))
            insert_build(connection, build, request_id=request_id, builder=self._builder)
        self._changed(build.build_id)
        return build

    def _check_room(self, connection: Connection) -> None:
        queued = select(func.count()).select_from(builds).where(builds.c.state == State.QUEUED.value)
        if (waiting := connection.execute(queued).scalar_one()) >= self._most:
            message = f"{waiting} builds wait, and no more than {self._most} may; try again later"
            raise ResourceExhausted(Reason.CAPACITY_EXHAUSTED, message, retry_after_s=FULL_RETRY_S, waiting=waiting)

    def get(self, principal: str | None, build_id: str) -> Build:
        """A build; raises NotFound (BUILD_NOT_FOUND), also for one of another principal. None: anybody's, as below."""
        with self._database.read() as connection:
            return find_build(connection, build_id, principal)

    def list(
        self, principal: str | None, page: Page, state: State | None = None, name: str = ""
    ) -> tuple[list[Build], str]:
        """A page of builds, the newest first, and the token of the next page; `state` and `name` filter."""
        query = select(builds)
        if principal is not None:
            query = query.where(builds.c.principal == principal)
        if state is not None:
            query = query.where(builds.c.state == state.value)
        if name:
            query = query.where(builds.c.name == name)
        if page.after is not None:
            ticks, last = page.after
            time = _EPOCH + int(ticks) * _TICK
            same_time = and_(builds.c.create_time == time, builds.c.build_id < last)
            query = query.where(or_(builds.c.create_time < time, same_time))
        query = query.order_by(builds.c.create_time.desc(), builds.c.build_id.desc()).limit(page.size + 1)
        with self._database.read() as connection, stream(connection, query) as rows:
            kept, token = page.fill(rows, _row_bytes, _key)
        return [to_build(row) for row in kept], token

    def watch(self, principal: str | None, build_id: str, after: int) -> tuple[Build, Sequence[StoredEvent]]:
        """A build and its next events after a sequence number, from one snapshot; fewer than EVENT_PAGE events are
        all.
        """
        following = and_(events.c.build_id == build_id, events.c.sequence > after)
        query = select(events).where(following).order_by(events.c.sequence).limit(EVENT_PAGE)
        with self._database.read() as connection:
            build = find_build(connection, build_id, principal)
            rows = connection.execute(query).mappings().all()
        return build, [
            StoredEvent(row["sequence"], row["time"], event_from_json(row["event"], build.spec)) for row in rows
        ]

    def cancel(self, principal: str | None, build_id: str) -> Build:
        """Cancel a build and notify its worker. Raises FailedPrecondition (BUILD_ENDED), NotFound.

        If another build waits for the same key, it takes over the attempt.
        """
        with self._database.write() as connection:
            build, heir = cancel_build(connection, build_id, principal)
        self._changed(build_id)
        if heir is not None:
            self._changed(heir)
        self._ended(build)
        return build


def _of_request(connection: Connection, principal: str, request_id: str) -> Build | None:
    if not request_id:
        return None
    mine = and_(builds.c.principal == principal, builds.c.request_id == request_id)
    row = connection.execute(select(builds).where(mine)).mappings().one_or_none()
    return None if row is None else to_build(row)


def _same_request(earlier: Build, asked: Build, request_id: str) -> Build:
    if (earlier.spec, earlier.new_version) == (asked.spec, asked.new_version):
        return earlier
    raise AlreadyExists(
        Reason.REQUEST_ID_REUSED,
        f"request_id {request_id!r} was used for another spec, in {earlier.name}; use a new one for a new request",
        field="request_id",
        request_id=request_id,
        build=earlier.name,
    )


def _row_bytes(row: RowMapping) -> int:
    return text_bytes(row["spec"], row["failure"])


def _key(row: RowMapping) -> tuple[int, str]:
    return (row["create_time"] - _EPOCH) // _TICK, row["build_id"]
