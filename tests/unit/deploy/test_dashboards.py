"""Dashboards are what the code makes of the metrics that exist; each metric stands on one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.boards import BOARDS, Board
from deploy.grafana.definitions import all_definitions
from deploy.grafana.generate import FOLDER, files
from deploy.grafana.panels import of
from tests.servers.debian_programs import find_program

DEFINED = all_definitions()


def _queries(board: Board) -> list[str]:
    return [query for panel in board.panels for query, _ in panel.queries]


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
