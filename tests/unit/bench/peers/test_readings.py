from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.measure import Plan
from bench.peers.members import MEMBERS, REFERENCES
from bench.peers.readings import FIRST, TURN, Ratio, Reading, compare, figure
from bench.peers.results import Results, machine
from bench.peers.table import page

OURS, OTHER = "ours int8", "llama.cpp Q4_0"
PLAN = Plan(rounds=3, decode_s=1, sessions=(1,), prefill=(), turns=2, prompt=3, new=4, most_s=5)


def reading(member: str, measure: str, unit: str, *values: float, error: str = "") -> Reading:
    return Reading("demo", member, measure, unit, values, error)


def test_speeds_are_compared_round_by_round() -> None:
    ours = reading(OURS, "decode 1", "tokens/s", 20, 60, 40)  # the machine was three times as fast in the second round
    other = reading(OTHER, "decode 1", "tokens/s", 10, 30, 10)
    assert compare(ours, other) == Ratio(median=2, least=2, most=4)


def test_less_time_and_less_memory_are_better() -> None:
    assert compare(reading(OURS, TURN, "s", 1), reading(OTHER, TURN, "s", 3)) == Ratio(3, 3, 3)
    assert compare(reading(OURS, "memory", "MiB", 200), reading(OTHER, "memory", "MiB", 100)) == Ratio(0.5, 0.5, 0.5)


def test_only_rounds_that_both_took_are_compared() -> None:
    ours = reading(OURS, TURN, "s", 1, 2, 100)
    assert compare(ours, reading(OTHER, TURN, "s", 2, 4)) == Ratio(2, 2, 2)
    assert compare(ours, reading(OTHER, TURN, "s")) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0414, "0.04"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12346")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_the_page_has_medians_ratios_turns_and_what_failed() -> None:
    text = page(
        [
            reading(OURS, "decode 1", "tokens/s", 20, 60, 40),
            reading(OURS, FIRST, "s", 0.5, 0.25),
            reading(OURS, TURN, "s", 2, 1),
            reading(OURS, "conversation", "tokens/s", 2, 4),
            reading(OTHER, "decode 1", "tokens/s", 10, 30, 10),
            reading(OTHER, "prefill 64", "", error="killed by SIGSEGV"),
            reading(OTHER, "prefill 256", "", error="killed by SIGSEGV"),
        ]
    )
    lines = text.splitlines()
    assert "|  | decode 1 | conversation |" in lines
    assert "| ours int8 | 40.0 | 3.00 |" in lines
    assert "| llama.cpp Q4_0 | 2.00 (2.00 to 4.00) | - |" in lines
    assert "| ours int8 | 500 (2.00) | 250 (1.00) |" in lines
    assert "- llama.cpp Q4_0, prefill 64, prefill 256: killed by SIGSEGV" in lines


def test_a_member_that_could_not_load_has_a_row_and_a_reason() -> None:
    text = page([reading(OTHER, "load", "", error="not installed"), reading(OURS, "decode 1", "tokens/s", 1)])
    assert "| llama.cpp Q4_0 | - |" in text
    assert "- llama.cpp Q4_0, load: not installed" in text


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = Results(machine(threads=2, chunk=64, clock="wall"), PLAN, {OURS: {"onnxruntime": "1"}})
    results.readings += [reading(OURS, "decode 1", "tokens/s", 1.5), reading(OTHER, "load", "", error="none")]
    results.write(tmp_path / "made" / "peers.json")
    read = Results.read(tmp_path / "made" / "peers.json")
    assert (read.readings, read.plan, read.versions) == (results.readings, results.plan, results.versions)
    assert read.page() == results.page()


def test_the_references_take_part() -> None:
    assert set(REFERENCES) <= set(MEMBERS)
