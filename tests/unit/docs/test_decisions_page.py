"""docs/decisions/README.md lists every decision by its title."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).resolve().parents[3] / "docs" / "decisions"


def test_every_decision_is_listed_by_its_title() -> None:
    listed = dict(re.findall(r"^- \[(.+)\]\((\S+)\)$", (DECISIONS / "README.md").read_text(), re.MULTILINE))
    pages = {path.read_text().splitlines()[0]: path for path in DECISIONS.glob("*/*.md")}
    assert {f"# {title}": DECISIONS / link for title, link in listed.items()} == pages
