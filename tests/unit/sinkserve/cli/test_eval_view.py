"""How far a measurement is, as a person sees it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from sinkserve.cli.eval_view import print_measured, tracked
from sinkserve.cli.terminal import console
from sinkserve.evaluation.modes import Kind
from sinkserve.evaluation.perplexity import Perplexity, Row


@pytest.mark.parametrize(("terminal", "last"), [(True, "3/3"), (False, "sinks 4+252\n")])
def test_a_terminal_gets_a_bar_and_a_file_a_line(terminal: bool, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=terminal, width=120))
    with tracked("sinks 4+252", 3) as advance:
        advance(1)
        advance(2)
    assert "sinks 4+252" in screen.getvalue()
    assert last in screen.getvalue()
    assert ("3/3" in screen.getvalue()) is terminal


def test_a_file_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, times = StringIO(), iter((0.0, 29.0, 31.0, 60.0, 61.0))
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=False, width=120))
    with tracked("dense", 40, clock=lambda: next(times)) as advance:
        for _ in range(4):
            advance(10)
    assert screen.getvalue().splitlines() == ["dense", "dense: 20 of 40", "dense: 40 of 40"]


@pytest.mark.parametrize(("compared", "lines"), [(None, 0), (99, 2), (100, 1)])
def test_few_tokens_to_compare_by_are_warned_of(
    compared: int | None, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=False, width=200))
    row = Row("sinks 4+252", Kind.SINKS, (2.0,), 2.0, 2.0, None, ())
    print_measured(Perplexity("demo@1", 300, 256, 256, 9, compared, ((1, 256),), (row,), {}))
    assert len(screen.getvalue().splitlines()) == lines
    assert ("warning" in screen.getvalue()) is (lines == 2)
