from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner, Result

from common.db.database import connect
from common.db.schema import EMPTY, known_versions, needed_version, version_of
from sinkserve.cli.app import make_app
from tests.servers.databases import KINDS, new_database_url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with new_database_url(request.param, tmp_path) as url:
        whole = make_url(url).render_as_string(hide_password=False)
        monkeypatch.setenv("SINKSERVE_DATABASE_URL", whole)
        yield whole


def _db(*args: str) -> Result:
    return CliRunner().invoke(make_app(["db"]), ["db", *args])


def _version(url: str) -> str:
    database = connect(url)
    try:
        return version_of(database)
    finally:
        database.close()


def test_an_empty_database_gets_the_schema_and_then_has_it(url: str) -> None:
    assert _version(url) == EMPTY
    first = _db("upgrade")
    assert first.exit_code == 0, first.stderr
    assert f"is upgraded from schema {EMPTY} to {needed_version()}" in first.stdout
    assert _version(url) == needed_version()
    assert f"has schema {needed_version()} already" in _db("upgrade").stdout


def test_what_it_has_and_what_is_needed_are_shown_side_by_side(url: str) -> None:
    lines = dict(line.split() for line in _db("show").stdout.splitlines())
    assert (lines["schema"], lines["needed"]) == (EMPTY, known_versions()[-1])
    assert (make_url(url).database or "") in lines["database"]


def test_a_configuration_file_names_the_database_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SINKSERVE_DATABASE_URL", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text(f"database_url: sqlite:///{tmp_path}/x.db\n")
    assert _db("upgrade", "--config", str(config)).exit_code == 0
    assert (tmp_path / "x.db").is_file()


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("mysql://host/x", 2, "mysql is not known"),
        ("postgresql://me:secret@127.0.0.1:1/x", 1, "postgresql://me:***@127.0.0.1:1/x does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_says_why(
    url: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKSERVE_DATABASE_URL", url)
    result = _db("upgrade")
    assert result.exit_code == code
    assert said in " ".join(result.stderr.split())
    assert "secret" not in result.output
