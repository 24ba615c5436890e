"""The page: every section can be run, and figures are held to their goals."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.goals import SECTIONS, Figure, Section

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_runs_a_script_that_says_json(section: Section) -> None:
    script, *options = section.command
    if script.endswith(".py"):
        assert '"--json"' in (ROOT / script).read_text() or "{out}" in options
    assert "--json" in options or "{out}" in options


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(1.3, True, True), (1.2, True, False), (1.2, False, True), (1.3, False, False)]
)
def test_a_figure_meets_its_goal_from_the_right_side(value: float, at_least: bool, met: bool) -> None:
    assert Figure("s", "f", value, 1.25, at_least).met is met


def test_what_has_no_goal_is_stated() -> None:
    figure = Figure("s", "f", 31_234.4, unit="tokens/s")
    assert (figure.met, figure.row) == (True, ("f", "31,234 tokens/s", "", ""))


def test_a_goal_is_shown_beside_its_result() -> None:
    assert Figure("s", "f", 1.0013, 1.01, at_least=False).row == ("f", "1.001", "at most 1.01", "met")
    assert Figure("s", "f", 0.743, 0.75, unit="%").row == ("f", "74 %", "at least 75 %", "not met")


def test_the_service_is_read_from_what_its_script_says() -> None:
    section = next(section for section in SECTIONS if section.name == "service")
    document = [
        {"token_ms": 0.02, "tokens_per_second": 9.0, "cpu_us_per_token": 30.0},
        {"token_ms": 0.6, "tokens_per_second": 26_000.0, "cpu_us_per_token": 28.0},
    ]
    assert [(figure.value, figure.met) for figure in section.read(document)] == [
        (26_000.0, True),
        (0.02, True),
        (28.0, True),
    ]
