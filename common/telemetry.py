"""Structured logs: one event a line, names are dotted nouns (`build.started`), facts are fields."""

from __future__ import annotations

import logging
import sys
from io import StringIO
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

from common.controls import harmless


def configure_logging(*, json: bool = False, level: int = logging.INFO) -> None:
    """Send logs to standard error, warnings of libraries too: as JSON for machines, else for people.

    Called once by an entry point.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=_format_exception,
        )
    )
    said: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info if json else _make_harmless,
        renderer,
    ]
    structlog.configure(
        processors=[*said, *written],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _take_over(said, written)


class _Libraries(logging.StreamHandler[TextIO]):
    """Writes what libraries tell Python's own logging as lines of ours: an exporter, say, whose collector is away."""


def _take_over(said: list[structlog.typing.Processor], written: list[structlog.typing.Processor]) -> None:
    handler = _Libraries(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *said],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
        )
    )
    for before in [each for each in logging.root.handlers if isinstance(each, _Libraries)]:
        logging.root.removeHandler(before)
    logging.root.addHandler(handler)


def _make_harmless(_logger: object, _method: str, event: EventDict) -> EventDict:
    """For a terminal: names and ids of other people neither control it nor look like lines of the log."""
    return {key: _line(value) if isinstance(value, str) else value for key, value in event.items()}


def _line(text: str) -> str:
    return harmless(text).replace("\n", "\N{SYMBOL FOR LINE FEED}")


def _format_exception(out: TextIO, exc_info: ExcInfo) -> None:
    """Without locals, which rich would print, and with them secrets."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(harmless(text.getvalue()))
