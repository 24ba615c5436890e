"""`run` chooses what to build, unless it goes on with a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.spec.model_spec import Source
from sinkserve.cli.chat import run_folder
from sinkserve.cli.chat.chat import Chat
from sinkserve.cli.services.embedded import Addresses
from sinkserve.cli.terminal.suggest import SpecChoices
from sinkserve.client import SessionOptions


def test_a_session_goes_on_without_a_look_at_the_checkpoint_or_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Chat] = []

    @contextmanager
    def services(*_roots: object) -> Iterator[Addresses]:
        yield Addresses("builder", "runtime", "", "")

    def refuse(*_arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(run_folder, "embedded_services", services)
    monkeypatch.setattr(run_folder, "choose_target", refuse)
    monkeypatch.setattr(run_folder, "open_source", refuse)
    monkeypatch.setattr(run_folder, "run_chat", lambda asked, runtime: held.append(asked))
    asked = Chat(session="sessions/a", session_options=SessionOptions(), generation={}, resume_command="", prompt="hi")
    run_folder._build_and_chat(Source(uri=str(tmp_path / "gone")), SpecChoices(), asked)
    assert held == [asked]
