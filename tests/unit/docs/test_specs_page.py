"""docs/use/specs.md says what the code says, and its examples are right. Run this file to write its tables anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.spec.model_spec import ModelSpec, Precision
from common.spec.yaml_file import parse_spec, read_spec_file
from tests.pages.specs_page import DEMO, PARTS, PRECISION_WORDS, ROOT, WRONG, said

PAGE = ROOT / "docs" / "use" / "specs.md"
GENERATED = re.compile(r"<!-- (?P<name>\w+):[^>]*-->\n.*?<!-- end -->", re.DOTALL)
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
CHANGE = re.compile(r"--set ([a-z_.]+)=(\S+)")
LINK = re.compile(r"\]\(([^)#]+)")


def _page() -> str:
    return GENERATED.sub(lambda found: _generated(found["name"]), PAGE.read_text())


def _generated(name: str) -> str:
    return f"<!-- {name}: made from the code, see tests/unit/docs -->\n\n{PARTS[name]()}\n\n<!-- end -->"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == _page(), f"write it anew: python {Path(__file__).name}"


def test_every_part_is_on_the_page_once() -> None:
    assert sorted(found["name"] for found in GENERATED.finditer(PAGE.read_text())) == sorted(PARTS)


@pytest.mark.parametrize("text", BLOCK.findall(PAGE.read_text()))
def test_every_example_is_a_spec(text: str) -> None:
    assert isinstance(parse_spec(text, DEMO), ModelSpec)


def test_every_change_that_is_shown_can_be_made() -> None:
    changes = CHANGE.findall(PAGE.read_text())
    assert changes
    for key, value in changes:
        assert read_spec_file(DEMO / "spec.yaml", {key: value}) != read_spec_file(DEMO / "spec.yaml")


@pytest.mark.parametrize("line", WRONG)
def test_what_is_shown_as_wrong_is_said_to_be_with_its_place(line: str) -> None:
    assert said(line).startswith((line.partition(":")[0], "spec.cache.window_tokens"))


def test_every_precision_is_explained() -> None:
    assert set(PRECISION_WORDS) == set(Precision)


def test_what_is_linked_is_there() -> None:
    targets = [target for target in LINK.findall(PAGE.read_text()) if "://" not in target]
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []


if __name__ == "__main__":
    PAGE.write_text(_page())
