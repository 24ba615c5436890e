"""CONTRIBUTING.md names files that exist and commands that can be made."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
_PATH = re.compile(r"(?<![\w./-])\.?[a-z_]+(?:/[\w.-]+)+|(?<=`)\.?[\w-]+\.(?:toml|md)(?=`)|(?<=`)\.[a-z]+(?=`)")


def test_every_path_exists() -> None:
    paths = set(_PATH.findall(PAGE)) - {".venv/bin/python"}
    assert len(paths) > 30
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_everything_that_is_said_to_be_made_can_be() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z -]+?)\s*(?:#|`|$)", PAGE, re.MULTILINE)
    said = {target for command in commands for target in command.split()}
    assert said >= {"test", "lint", "types", "hooks", "coverage", "proto"}
    assert said - targets == set()
