"""What every database does, whatever it is: transactions, one writer at a time, its clock, and its schema."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from inspect import getsource
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, select, text, update

import builder_service.queue.tables  # noqa: F401 - its tables are compared too
import runtime_service.storage.tables  # noqa: F401 - its tables are compared too
from common.catalog import tables
from common.db.database import Database, connect, database_time, metadata, utc_now
from common.db.paging import Page
from common.db.schema import (
    BEFORE,
    COMPATIBILITY,
    EMPTY,
    compatible_from,
    known_versions,
    needed_version,
    open_database,
    upgrade,
    version_of,
)
from common.errors import FailedPrecondition, Reason, Unavailable
from runtime_service.domain.session_filter import SessionFilter
from runtime_service.storage.repository import SessionRepository
from tests.servers.databases import KINDS, new_database_url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_database_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def empty(url: str) -> Iterator[Database]:
    database = connect(url)
    yield database
    database.close()


@pytest.fixture
def database(empty: Database) -> Database:
    upgrade(empty)
    return empty


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "common.db:migrations")
    return config


STEPS = tuple(ScriptDirectory.from_config(_config()).walk_revisions())


def test_steps_are_named_by_their_versions_in_their_order() -> None:
    assert known_versions() == tuple(step.revision for step in STEPS)[::-1]


@pytest.mark.parametrize("step", STEPS, ids=[step.revision for step in STEPS])
def test_a_step_that_older_programs_can_do_with_only_adds(step: Script) -> None:
    oldest = getattr(step.module, "compatible_from", step.revision)
    assert oldest in known_versions()
    done = set(re.findall(r"\bop\.(\w+)", getsource(step.module)))
    assert oldest == step.revision or done <= {"add_column", "create_table", "create_index", "f", "get_bind"}


def test_what_is_kept_of_older_programs_is_what_the_strictest_step_says(database: Database) -> None:
    with database.read() as connection:
        assert connection.scalars(select(COMPATIBILITY.c.compatible_from)).all() == [compatible_from()] == ["0007"]


def test_an_empty_database_gets_the_schema_that_the_tables_declare(empty: Database) -> None:
    assert version_of(empty) == EMPTY
    assert upgrade(empty) == (EMPTY, needed_version())
    assert version_of(empty) == needed_version() == known_versions()[-1]
    with empty.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_from_before_there_were_steps_is_brought_along(empty: Database) -> None:
    """Such a one has the tables of the services that opened it, and a table with a version."""
    with empty.write() as connection:
        columns = "name VARCHAR(63) NOT NULL, last_version INTEGER NOT NULL"
        connection.execute(
            text(f"CREATE TABLE engine_names ({columns}, CONSTRAINT pk_engine_names PRIMARY KEY (name))")
        )
        connection.execute(text("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)"))
        _insert(connection, "engine_names", name="kept", last_version=3)
    assert version_of(empty) == BEFORE
    assert upgrade(empty) == (BEFORE, needed_version())
    with empty.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        kept = connection.execute(select(tables.names.c.last_version, tables.names.c.owner)).one()
        assert tuple(kept) == (3, "local")
        assert not inspect(connection).has_table("schema_version")


def test_what_was_kept_before_the_wire_changed_is_found_and_means_the_same(empty: Database) -> None:
    with empty.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        held = {"state": "QUEUED", "progress": 0, "attempt": 0, "create_time": 0, "builder": "x", "last_sequence": 0}
        _insert(connection, "builds", build_id="b", principal="me", spec='{"name": "demo"}', **held)
        for key, goes_on in enumerate((True, False), start=1):
            text_of = {"labels": '{"a": "b"}', "options": json.dumps({"continue_when_disconnected": goes_on})}
            names = {"principal": "me", "session_id": str(key), "engine_name": "demo", "engine_digest": "d"}
            numbers = dict.fromkeys(
                ("engine_version", "position", "turns", "epoch", "last_sequence", "created_at", "last_active_at"), 0
            )
            _insert(
                connection, "sessions", key=key, digest=b"", opening=b"", pinned=False, **text_of, **names, **numbers
            )
    upgrade(empty)
    with empty.read() as connection:
        assert connection.scalars(text("SELECT name FROM builds")).all() == ["demo"]
        options = connection.scalars(text("SELECT options FROM sessions ORDER BY key")).all()
    assert [json.loads(each) for each in options] == [{"on_disconnect": "CONTINUE"}, {"on_disconnect": "CANCEL"}]
    found, _ = SessionRepository(empty).list_sessions("me", Page(9, None, ""), SessionFilter((("a", "b"),)))
    assert [session.session_id for session in found] == ["2", "1"]


def test_what_sessions_see_follows_from_what_was_kept_of_them(empty: Database) -> None:
    """Of one that has forgotten, of one that has not, and of one that never spoke."""
    with empty.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")
        numbers = dict.fromkeys(
            ("engine_version", "turns", "epoch", "last_sequence", "created_at", "last_active_at"), 0
        )
        names = {"principal": "me", "engine_name": "demo", "engine_digest": "d", "labels": "{}"}
        options = json.dumps({"sink_tokens": 2, "window_tokens": 7})
        for key, position in ((1, 20), (2, 9), (3, 1)):
            held = {"key": key, "session_id": str(key), "position": position, "options": options}
            _insert(connection, "sessions", digest=b"", opening=b"", pinned=False, **held, **names, **numbers)
        said = {"digest": b"", "body": "", "options": "", "attempt": 1, "stops": 0, "created_at": 0}
        for key, number, tokens in ((1, 1, 12), (1, 2, 3), (1, 3, 0), (1, 4, 4), (2, 1, 4), (2, 2, 4)):
            held = {"session_key": key, "number": number, "turn_id": f"t{number}", "tokens": bytes(4 * tokens)}
            _insert(connection, "turns", **held, **said)
    upgrade(empty)
    with empty.read() as connection:
        query = "SELECT window_start_position, oldest_visible_turn FROM sessions ORDER BY key"
        found = [tuple(row) for row in connection.execute(text(query))]
    assert found == [(13, "t2"), (2, "t1"), (2, "")]


def _insert(connection: Connection, table: str, **values: object) -> None:
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def test_an_upgrade_of_what_is_current_changes_nothing(database: Database) -> None:
    assert upgrade(database) == (needed_version(), needed_version())


def test_two_upgrades_at_once_are_one_after_the_other(url: str) -> None:
    found: list[tuple[str, str]] = []

    def run() -> None:
        mine = connect(url)
        found.append(upgrade(mine))
        mine.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(before for before, _ in found) == sorted([EMPTY] + [needed_version()] * 3)


def test_a_schema_of_a_newer_program_is_refused(database: Database, url: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE schema_compatibility SET compatible_from = '9999'"))
    for act in (lambda: open_database(url), lambda: upgrade(database)):
        with pytest.raises(FailedPrecondition, match="schema 9999 and this program needs .* a newer one") as caught:
            act()
        assert caught.value.reason is Reason.SCHEMA_MISMATCH


def test_a_service_upgrades_a_file_and_refuses_a_server_that_is_behind(url: str) -> None:
    if url.startswith("sqlite"):
        open_database(url).close()
        assert version_of(connect(url)) == needed_version()
        return
    with pytest.raises(FailedPrecondition, match="schema none and this program needs .* `sinkserve db upgrade`"):
        open_database(url)
    server = connect(url)
    upgrade(server)
    server.close()
    open_database(url).close()


def test_its_clock_is_the_time(database: Database) -> None:
    with database.read() as connection:
        first = database_time(connection)
    assert abs(first - utc_now()) < timedelta(seconds=5)
    time.sleep(0.01)
    with database.read() as connection:
        assert first < database_time(connection)


def test_what_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(tables.names.insert().values(name="demo", last_version=0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as connection:
        assert connection.scalar(select(tables.names.c.name)) is None


def test_a_read_sees_one_snapshot(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tables.names.insert().values(name="demo", last_version=0))
    query = select(tables.names.c.last_version)
    with database.read() as reader:
        assert reader.scalar(query) == 0
        with database.write() as connection:
            connection.execute(update(tables.names).values(last_version=7))
        assert reader.scalar(query) == 0
    with database.read() as reader:
        assert reader.scalar(query) == 7


def test_writers_that_count_up_what_they_read_lose_nothing(database: Database) -> None:
    """Read, then write: right only where nobody else writes in between."""
    with database.write() as connection:
        connection.execute(tables.names.insert().values(name="demo", last_version=0))

    def count() -> None:
        for _ in range(10):
            with database.write() as connection:
                found = connection.scalar(select(tables.names.c.last_version))
                connection.execute(update(tables.names).values(last_version=(found or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.scalar(select(tables.names.c.last_version)) == 40


def test_a_database_that_is_not_there_says_so_without_its_password() -> None:
    with pytest.raises(Unavailable, match=r"postgresql://someone:\*\*\*@127\.0\.0\.1:1/x does not answer") as caught:
        connect("postgresql://someone:secret@127.0.0.1:1/x")
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
    assert "secret" not in str(caught.value)


def test_a_connection_that_is_in_use_when_the_database_closes_is_closed_afterwards(database: Database) -> None:
    with database.read() as connection:
        used = connection.connection.dbapi_connection
        assert used is not None
        database.close()
        assert connection.scalar(select(1)) == 1
    with pytest.raises(Exception, match="closed"):
        used.cursor().execute("SELECT 1")
