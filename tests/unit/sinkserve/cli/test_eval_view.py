"""How far a measurement is, as a person sees it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from sinkserve.cli.eval_view import tracked
from sinkserve.cli.terminal import console


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
