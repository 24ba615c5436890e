"""Two releases beside each other on one database, whose schema the newer one has brought forward."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from common.db.database import connect
from common.db.schema import needed_version, open_database, upgrade, version_of
from common.errors import FailedPrecondition, Reason
from sinkserve.client import Client, Conversation
from tests.servers.databases import new_database_url, one_by_day
from tests.service.replicas.behind_a_balancer import ENGINE
from tests.service.replicas.releases import NEXT, ROOT, run_in, unpack_last, upgrade_to_next
from tests.service.replicas.talking import NOBODY, SHORT
from tests.service.runtime.runtime import Bench


@pytest.fixture(params=one_by_day())
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_database_url(request.param, tmp_path) as url:
        database = connect(url)
        upgrade(database)
        database.close()
        yield url


async def test_this_release_goes_on_and_starts_on_what_the_next_one_has_added_to(url: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, url)
    bench.publish()
    await bench.start()
    stream = await bench.opened(session_id="a")
    await stream.said("1", "hello")
    upgrade_to_next(url, tmp_path)
    await stream.said("2", "and on")  # by the server that ran meanwhile
    await bench.restart()
    await (await bench.resumed("sessions/a")).said("3", "and again")
    await (await bench.opened(session_id="b")).said("1", "a new one")
    bench.publish("other")
    database = open_database(url)
    with database.read() as connection:
        assert connection.scalars(text("SELECT next_release FROM turns")).all() == ["yes"] * 4
    assert upgrade(database) == (NEXT, NEXT) == (version_of(database), NEXT)
    database.close()
    await bench.stop()


def test_this_release_refuses_what_the_next_one_has_taken_from(url: str, tmp_path: Path) -> None:
    upgrade_to_next(url, tmp_path, says="")
    with closing(connect(url)) as database:
        for act in (lambda: open_database(url), lambda: upgrade(database)):
            with pytest.raises(FailedPrecondition, match=f"schema {NEXT} and this program needs .* newer") as caught:
                act()
            assert caught.value.reason is Reason.SCHEMA_MISMATCH


_BUILD = """
from common.settings import SharedSettings
from tests.service.replicas.behind_a_balancer import build
build(SharedSettings.load({{"home": {home!r}, "database_url": {url!r}}}))
"""


@contextmanager
def runtime_of(tree: Path, home: Path, url: str) -> Iterator[str]:
    """`python -m runtime_service` of a release; its address."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "SINKSERVE_HOME": str(home / f"home-{tree.name}"),
        "SINKSERVE_DATABASE_URL": url,
        "SINKSERVE_STORE_URL": str(home / "store"),
        "SINKSERVE_RUNTIME_LISTEN": "127.0.0.1:0",
        "SINKSERVE_RUNTIME_ENGINES": ENGINE,
        "SINKSERVE_RUNTIME_THREADS": "1",
    }
    command = (sys.executable, "-m", "runtime_service")
    with subprocess.Popen(command, cwd=tree, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "runtime.listening" in line)
            yield line.partition(" address=")[2].split()[0]
        finally:
            process.kill()


async def reply(conversation: Conversation, text: str) -> str:
    turn = await conversation.say(text, **SHORT)
    await turn.wait()
    return turn.text


@pytest.mark.nightly
async def test_the_last_release_and_this_one_serve_beside_each_other_and_a_session_moves(tmp_path: Path) -> None:
    last = unpack_last(tmp_path)
    with new_database_url("postgresql", tmp_path) as url:
        run_in(last, "-c", _BUILD.format(home=str(tmp_path), url=url))
        with runtime_of(last, tmp_path, url) as address:
            async with Client(address, NOBODY) as old, old.conversation(ENGINE, session_id="moves") as moves:
                replies = [await reply(moves, "hello")]
                with closing(connect(url)) as database:
                    assert upgrade(database)[0] < needed_version()
                replies.append(await reply(moves, "the schema has changed meanwhile"))
                with runtime_of(ROOT, tmp_path, url) as other_address:
                    await moves.close()
                    async with Client(other_address, NOBODY) as new, new.conversation(session="moves") as moved:
                        replies.append(await reply(moved, "and this is the other release"))
                        assert [turn.reply async for turn in new.sessions.turns("sessions/moves")] == replies
                        for client in (old, new):
                            async with client.conversation(ENGINE) as conversation:
                                assert await reply(conversation, "hello") == replies[0]
