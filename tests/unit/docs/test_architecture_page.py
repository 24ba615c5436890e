"""docs/architecture.md names files and packages that exist, and leaves out no package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
HOUSES = ("builder_service", "runtime_service", "common", "sinkserve")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def packages() -> set[str]:
    """Folders with code of ours: generated stubs and packages without a file do not count."""
    files = [path.relative_to(ROOT) for house in HOUSES for path in (ROOT / house).rglob("*.py")]
    return {f"{file.parent}/" for file in files if "v1" not in file.parts and "versions" not in file.parts}


def test_every_path_exists() -> None:
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", PAGE)
    paths = [name for name in named if "/" in name]
    assert len(paths) > 80, "the page names hardly any file"
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_package_has_its_line() -> None:
    lines = re.findall(r"^\| `([\w/]+/)` \| \S", section("Packages"), re.MULTILINE)
    assert sorted(lines) == sorted(packages())


def test_ten_everyday_questions_name_a_file() -> None:
    rows = re.findall(r"^\| (Where .*\?) \| (.*) \|$", section("Where to look"), re.MULTILINE)
    assert len(rows) >= 10
    assert [question for question, answer in rows if "`" not in answer] == []
