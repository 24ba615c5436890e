"""docs/measured/performance.md has the last full page of figures and goals, as it was measured.

Run this file to write its table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.page import read_page
from bench.peers.table import table

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "measured" / "performance.md"
GENERATED = re.compile(r"(<!-- page: made from [^>]*-->\n).*?<!-- end -->", re.DOTALL)


def page() -> str:
    measured = read_page(ROOT / "bench" / "results" / "page.json")
    rows = table(["figure", "result", "goal", ""], [figure.row for figure in measured.figures])
    return GENERATED.sub(lambda found: f"{found[1]}\n{rows}\n\n<!-- end -->", PAGE.read_text())


def test_the_page_is_what_was_measured() -> None:
    assert GENERATED.search(PAGE.read_text())
    assert PAGE.read_text() == page(), f"write it anew: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(page())
