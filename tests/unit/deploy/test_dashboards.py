"""Dashboards are what the code makes of the metrics that exist; each metric stands on one."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from deploy.grafana.boards import BOARDS, Board
from deploy.grafana.definitions import all_definitions
from deploy.grafana.generate import FOLDER, files
from deploy.grafana.panels import Panel, of
from deploy.grafana.tables import SqlPanel
from tests.servers.databases import new_database_url
from tests.servers.debian_programs import find_program

DEFINED = all_definitions()


def _queries(board: Board) -> list[str]:
    return [query for panel in board.panels if isinstance(panel, Panel) for query, _ in panel.queries]


def test_the_files_are_what_the_code_writes() -> None:
    written = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert written == files(), "write them anew: python -m deploy.grafana.generate"


def test_every_metric_stands_on_a_dashboard() -> None:
    shown = {name for board in BOARDS for query in _queries(board) for name in re.findall(r"sinkserve_\w+", query)}
    assert {name.removesuffix("_bucket") for name in shown} == set(DEFINED)


def test_a_label_that_a_metric_has_not_is_refused() -> None:
    with pytest.raises(AssertionError, match="no label"):
        of("sinkserve_runtime_streams", "Open streams", "engine")


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
def test_panels_do_not_overlap_and_have_numbers_of_their_own(board: Board) -> None:
    panels: list[dict[str, Any]] = json.loads(json.dumps(board.drawn()))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    promtool = find_program("usr/bin/promtool", "prometheus", version="--version", required=False)
    queries = [query for board in BOARDS for query in _queries(board)]
    asked = [query.replace("$__rate_interval", "5m").replace("$engine", ".*") for query in queries]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    ran = subprocess.run((promtool, "check", "rules", file), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Connection]:
    """The role that draws, as `reader.sql` makes it, on a database with nothing in it."""
    role = f"sinkserve_reader_{uuid4().hex}"
    with new_database_url("postgresql", tmp_path, with_schema=True) as url:
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text((FOLDER / "reader.sql").read_text().replace("sinkserve_reader", role)))
        try:
            with engine.connect() as connection:
                connection.execute(text(f"SET ROLE {role}"))
                yield connection
        finally:
            with engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))


def test_postgresql_answers_every_query_to_a_role_that_reads_no_words(reader: Connection) -> None:
    panels = [panel for board in BOARDS for panel in board.panels if isinstance(panel, SqlPanel)]
    assert panels
    for panel in panels:
        sql = re.sub(r"\$\{__(?:from|to):date:YYYY-MM-DD\}", "2026-11-30", panel.sql)
        columns = list(reader.execute(text(sql)).keys())
        assert columns == ["time", "metric", "value"] if panel.over_time else columns[0] == "principal", panel.title
    for words in ("turns", "session_labels", "build_events"):
        with pytest.raises(ProgrammingError, match="permission denied"), reader.begin_nested():
            reader.execute(text(f"SELECT * FROM {words}"))
