"""Logs for people: what others chose neither commands a terminal nor looks like another line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from common.controls import CONTROLS
from common.telemetry import configure_logging

HOSTILE = "a\x1b[2J\u202eb\n2026-11-29 [info] forged\x9b"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("json_lines", [True, False])
def test_names_and_errors_of_others_are_harmless(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=json_lines)
    log = structlog.get_logger()
    log.info("turn.ended", turn=HOSTILE, labels=[HOSTILE])
    log.error("turn.failed", exc_info=ValueError(HOSTILE))
    said = capsys.readouterr().err
    assert not set(said) & set(map(chr, CONTROLS))
    first, second, *_ = said.splitlines()
    assert "forged" in first
    if json_lines:
        assert json.loads(first)["turn"] == HOSTILE
        assert "ValueError" in json.loads(second)["exception"]
