"""Whatever a user has set, tests and their children do not see it; what installs programs for them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SET = {
    "SINKSERVE_HOME": "/nonexistent/x",
    "SINKSERVE_DATABASE_URL": "nonsense://x",
    "http_proxy": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "no_proxy": "127.0.0.1",
    "HF_HOME": "/nonexistent/x",
    "AWS_PROFILE": "nobody",
    "XDG_CACHE_HOME": "/nonexistent/x",
}
SAYS = """
import json, os, subprocess, sys
from tests.environment import isolate, users_environment, written_at_home
isolate(); isolate()
child = subprocess.run(["env", "-0"], capture_output=True, text=True, check=True).stdout
seen = dict(line.partition("=")[::2] for line in child.split("\\0") if line)
before = written_at_home()
(__import__("pathlib").Path.home() / ".sinkserve").mkdir()
print(json.dumps([seen, users_environment(), before, written_at_home()]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The environment of a child, that of the user, and what was written to HOME before and after something was."""
    home = str(tmp_path_factory.mktemp("home"))
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("SINKSERVE_")}
    environment = theirs | SET | {"HOME": home, "SINKSERVE_TEST_KEPT": "1"}
    ran = subprocess.run((sys.executable, "-c", SAYS), cwd=ROOT, env=environment, capture_output=True, check=True)
    said: list[Any] = json.loads(ran.stdout)
    assert said[1]["HOME"] == home
    return said


def test_children_see_nothing_that_changes_results_and_what_is_for_tests(said: list[Any]) -> None:
    seen = said[0]
    assert SET.keys() & seen.keys() == set()
    assert seen["SINKSERVE_TEST_KEPT"] == "1"
    assert {name for name in seen if name.startswith("SINKSERVE_") and "TEST" not in name} == {
        "SINKSERVE_BUILDER_ADMIN_LISTEN",
        "SINKSERVE_RUNTIME_ADMIN_LISTEN",
        "SINKSERVE_BUILDER_METRICS_LISTEN",
        "SINKSERVE_RUNTIME_METRICS_LISTEN",
    }


def test_home_is_new_and_gone_at_the_end_and_what_is_written_there_is_seen(said: list[Any]) -> None:
    assert not Path(said[0]["HOME"]).exists()
    assert said[2:] == [[], [".sinkserve"]]


def test_what_installs_programs_has_the_users_settings(said: list[Any]) -> None:
    assert {name: said[1][name] for name in SET} == SET
