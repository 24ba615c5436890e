"""Replies in a form and forced calls at temperature 1, on the shipped model through gRPC: all are whole and valid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bench", ["form_replies", "tool_calls"])
def test_every_reply_is_whole_and_valid(bench: str) -> None:
    command = (sys.executable, f"bench/service/{bench}.py", "demo/model", "--tries", "24", "--json")
    done = subprocess.run(command, capture_output=True, check=False, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(row["valid"] for row in json.loads(done.stdout.splitlines()[-1])) >= 24
