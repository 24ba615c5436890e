"""Rows of builds and events. All functions work inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, insert, select, update

from builder_service.queue.build import Build, Stage, State
from builder_service.queue.events import Changed, Event, event_to_json
from builder_service.queue.failure import Failure
from builder_service.queue.tables import builds, events, running_keys
from common.db.database import utc_now
from common.errors import NotFound, Reason
from common.spec.model_spec import ModelSpec

_AS_THEY_ARE = ("principal", "progress", "attempt", "create_time", "start_time", "end_time", "engine")


def find_build(connection: Connection, build_id: str, principal: str | None = None, *, lock: bool = False) -> Build:
    """A build; raises NotFound (BUILD_NOT_FOUND), also for one that is not the principal's; None: anybody's.

    `lock`: no other transaction changes it until this one ends.
    """
    query = select(builds).where(builds.c.build_id == build_id)
    if lock:
        query = query.with_for_update()
    if principal is not None:
        query = query.where(builds.c.principal == principal)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        name = f"builds/{build_id}"
        raise NotFound(Reason.BUILD_NOT_FOUND, f"{name} not found", build=name)
    return to_build(row)


def to_build(row: Mapping[Any, Any]) -> Build:
    """A build from its row."""
    return Build(
        build_id=row["build_id"],
        spec=ModelSpec.model_validate_json(row["spec"]),
        state=State(row["state"]),
        stage=Stage(row["stage"]) if row["stage"] else None,
        failure=Failure.model_validate_json(row["failure"]) if row["failure"] else None,
        new_version=row["new_version"],
        caller_span=row["caller_span"],
        **{name: row[name] for name in _AS_THEY_ARE},
    )


def insert_build(connection: Connection, build: Build, *, request_id: str, builder: str) -> None:
    """Store a new build that `builder` accepted, with its first event."""
    spec = {"name": build.spec.name, "spec": build.spec.model_dump_json()}
    fixed = {"build_id": build.build_id, "builder": builder} | spec
    asked = {"new_version": build.new_version, "caller_span": build.caller_span}
    values = fixed | asked | _state(build) | {"request_id": request_id or None, "last_sequence": 0}
    connection.execute(insert(builds).values(values))
    append_event(connection, build.build_id, Changed(build))


def change_build(
    connection: Connection, build_id: str, change: Callable[[Build], Build], principal: str | None = None
) -> Build:
    """Load a build, change it, store it, with an event if its state changed; raises what `change` raises."""
    before = find_build(connection, build_id, principal, lock=True)
    after = change(before)
    if after == before:
        return after
    set_columns(connection, build_id, **_state(after))
    if after.state != before.state:
        append_event(connection, build_id, Changed(after))
        if after.state is not State.RUNNING:
            set_columns(connection, build_id, worker=None, lease_expires=None, run=None)
            connection.execute(delete(running_keys).where(running_keys.c.build_id == build_id))
    return after


def cancel_build(connection: Connection, build_id: str, principal: str | None) -> tuple[Build, str | None]:
    """Cancel a build. If others wait for its key, the oldest of them takes over the attempt; its id is returned too.

    Raises FailedPrecondition (BUILD_ENDED) and NotFound.
    """
    before = find_build(connection, build_id, principal, lock=True)
    key = connection.scalar(select(running_keys.c.build_key).where(running_keys.c.build_id == build_id))
    heir: str | None = connection.scalar(_waiting_for(key)) if key is not None else None
    kept = select(builds.c.worker, builds.c.lease_expires, builds.c.run).where(builds.c.build_id == build_id)
    attempt = connection.execute(kept).mappings().one()
    build = change_build(connection, build_id, lambda found: found.cancel(utc_now()), principal)
    if heir is not None:
        change_build(connection, heir, lambda found: found.take_over(before, utc_now()))
        set_columns(connection, heir, waits_for_key=None, **attempt)
        connection.execute(insert(running_keys).values(build_key=key, build_id=heir))
    return build, heir


def _waiting_for(key: str) -> Select[Any]:
    """The build that has waited longest for a key."""
    waits = and_(builds.c.state == State.QUEUED.value, builds.c.waits_for_key == key)
    return select(builds.c.build_id).where(waits).order_by(builds.c.create_time, builds.c.build_id).limit(1)


def set_columns(connection: Connection, build_id: str, **columns: object) -> None:
    """Store columns of a build."""
    connection.execute(update(builds).where(builds.c.build_id == build_id).values(**columns))


def append_event(connection: Connection, build_id: str, event: Event) -> None:
    """Store the next event of a build."""
    count = update(builds).where(builds.c.build_id == build_id).values(last_sequence=builds.c.last_sequence + 1)
    sequence = connection.scalar(count.returning(builds.c.last_sequence))
    row = {"build_id": build_id, "sequence": sequence, "time": utc_now(), "event": event_to_json(event)}
    connection.execute(insert(events).values(row))


def _state(build: Build) -> dict[str, Any]:
    return {name: getattr(build, name) for name in _AS_THEY_ARE} | {
        "state": build.state.value,
        "stage": build.stage.value if build.stage else None,
        "failure": build.failure.model_dump_json() if build.failure else None,
    }
