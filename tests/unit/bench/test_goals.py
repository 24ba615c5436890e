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


def reading(shape: str, member: str, measure: str, *values: float) -> dict[str, object]:
    unit = "MiB" if measure.startswith("memory") else "tokens/s"
    return {"shape": shape, "member": member, "measure": measure, "unit": unit, "values": values}


def peers(shape: str, *readings: dict[str, object]) -> dict[str, tuple[float, bool]]:
    """What the section of a shape says of readings, by the name of a figure without its shape."""
    section = next(section for section in SECTIONS if section.name == f"peers-{shape}")
    figures = section.read({"readings": readings})
    return {figure.name.removeprefix(f"{shape}, "): (figure.value, figure.met) for figure in figures}


@pytest.mark.parametrize("shape", ["smollm-135m", "tinyllama-1.1b"])
def test_the_best_of_four_engines_is_held_against_the_best_of_all_peers_of_its_shape(shape: str) -> None:
    found = peers(
        shape,
        reading(shape, "ours int8", "decode 8", 90, 100, 110),
        reading(shape, "ours int8, keys and values too", "decode 8", 100, 240, 120),
        reading(shape, "llama.cpp Q4_0", "decode 8", 10, 10, 10),
        reading(shape, "OpenVINO GenAI int4", "decode 8", 50, 60, 80),
        reading("demo", "OpenVINO GenAI int4", "decode 8", 5000),
    )
    assert found["decode 8: the best of ours, to the best peer"] == (2.0, True)


def test_goals_are_those_of_the_shape() -> None:
    ratios = {}
    for shape in ("smollm-135m", "tinyllama-1.1b"):
        readings = [
            reading(shape, name, "decode 1", rate) for name, rate in (("ours int8", 13), ("llama.cpp Q8_0", 10))
        ]
        ratios[shape] = peers(shape, *readings)["decode 1: the best of ours, to the best peer"]
    assert ratios == {"smollm-135m": (1.3, True), "tinyllama-1.1b": (1.3, False)}


def test_memory_is_held_against_keys_and_values_in_float32() -> None:
    shape, measure = "smollm-135m", "memory, 32 sessions"
    wide = reading(shape, "ours int8", measure, 2000)
    narrow = reading(shape, "ours int8, keys and values too", measure, 1000)
    name = "memory at 32 sessions: the least of ours, to int8 with keys and values in float32"
    assert peers(shape, wide, narrow)[name] == (0.5, True)
    assert peers(shape, wide)[name] == (1.0, False)
    assert not peers(shape, narrow)


def test_a_peer_that_was_not_measured_has_no_figure() -> None:
    failed: dict[str, object] = {
        "shape": "smollm-135m",
        "member": "llama.cpp Q4_0",
        "measure": "load",
        "unit": "",
        "error": "not installed",
    }
    assert not peers("smollm-135m", reading("smollm-135m", "ours int8", "decode 1", 5), failed)
