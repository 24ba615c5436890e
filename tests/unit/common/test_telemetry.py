"""Logs for people: what others chose neither commands a terminal nor looks like another line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing

import pytest
import structlog

from common.controls import CONTROLS
from common.telemetry import configure_logging
from common.tracing.collector import open_collector
from common.tracing.span import Span

HOSTILE = "a\x1b[2J\u202eb\n2026-11-29 [info] forged\x9b"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before, handlers = structlog.get_config(), [*logging.root.handlers]
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers


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


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_libraries_say_is_a_line_like_ours(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # and said once
        configure_logging(json=json_lines)
    library = logging.getLogger("opentelemetry.exporter")
    library.info("nobody asked for this")
    library.warning("the collector at %s is away", HOSTILE)
    library.error("failed", exc_info=ValueError(HOSTILE))
    said = capsys.readouterr().err
    assert not set(said) & set(map(chr, CONTROLS))
    first, second, *_ = said.splitlines()
    assert "nobody asked" not in said
    assert said.count("is away") == 1
    assert "forged" in first
    if json_lines:
        line = json.loads(first)
        assert (line["level"], line["logger"]) == ("warning", "opentelemetry.exporter")
        assert line["event"] == f"the collector at {HOSTILE} is away"
        assert line["timestamp"]
        assert "ValueError" in json.loads(second)["exception"]


def test_an_exporter_whose_collector_is_away_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True)
    with closing(open_collector("runtime", "http://127.0.0.1:1", 1.0)) as traces:
        traces.record(Span("chat", start_s=1.0, end_s=2.0))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines
    assert all(line["logger"].startswith("opentelemetry.") for line in lines)
