"""Settings that all tests share."""

import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.environment import isolate, written_at_home

isolate()
# In every worker, jsonschema takes two seconds to learn what an IRI is, which nothing here asks. None: not there.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

from common.db.database import Database
from tests.nightly import examples
from tests.servers.databases import KINDS, new_database
from tests.servers.s3 import Bucket, S3Server

settings.register_profile("sinkserve", deadline=None, max_examples=examples(30))  # nothing here asserts time
settings.load_profile("sinkserve")

# Rich's tracebacks, with all values that were in memory, take seconds of a processor each.
_PLAIN = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests and all that they imported stay: the collector does not go through them again and again."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that writes into the user's home fails the run, whichever of them it was."""
    if written_at_home():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if found := written_at_home():
        terminalreporter.line(f"FAILED: tests wrote into the home of the user: {', '.join(found)}", red=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server of an S3 API."""
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; the environment says how to reach it."""
    return s3.use(monkeypatch)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database with the schema, of each kind in turn."""
    with new_database(request.param, tmp_path) as database:
        yield database
