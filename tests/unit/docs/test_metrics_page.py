"""docs/operate/metrics.md lists the metrics that exist. Run this file to write its tables anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.grafana.definitions import Definition, builder_definitions, runtime_definitions, web_definitions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operate" / "metrics.md"
_TABLE = re.compile(r"(?<=\| --- \| --- \| --- \| --- \|\n)(?:\|.*\n)*")


def _row(found: Definition) -> str:
    """A line of a table: name, type, labels, meaning."""
    labels = ", ".join(f"`{name}`" for name in found.labels)
    return f"| `{found.name}` | {found.kind} | {labels} | {found.what} |\n"


def _tables() -> list[str]:
    return [
        "".join(map(_row, definitions))
        for definitions in (runtime_definitions(), builder_definitions(), web_definitions())
    ]


def test_the_page_lists_the_metrics_that_exist() -> None:
    assert _TABLE.findall(PAGE.read_text()) == _tables(), f"write it anew: python {Path(__file__).name}"


@pytest.mark.parametrize(
    ("service", "of"),
    [("runtime", runtime_definitions), ("builder", builder_definitions), ("web", web_definitions)],
)
def test_every_name_is_its_own_and_begins_with_its_service(service: str, of: Callable[[], list[Definition]]) -> None:
    names = [found.name for found in of()]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"sinkserve_{service}_") for name in names)


def test_every_question_asks_for_what_exists() -> None:
    """Names in the page's PromQL, without what a histogram or a counter adds to its name."""
    page = PAGE.read_text()
    questions = page.partition("```promql")[2].partition("```")[0]
    asked = {name.removesuffix("_bucket") for name in re.findall(r"sinkserve_[a-z_]+", questions)}
    listed = set(re.findall(r"^\| `(sinkserve_[a-z_]+)`", page, re.MULTILINE))
    assert asked
    assert asked <= listed


if __name__ == "__main__":
    tables = iter(_tables())
    PAGE.write_text(_TABLE.sub(lambda _: next(tables), PAGE.read_text()))
