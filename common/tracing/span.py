"""What a trace is made of: spans, values that are handed over when all of it has ended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

Attribute = str | bool | int | float | Sequence[str]
PARENT = "traceparent"
"""Metadata key of W3C trace context: the span of the caller."""
TRACE_CONTEXT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""What is said there, by its version 00."""
caller_span: ContextVar[str] = ContextVar("caller_span", default="")
"""The span of who makes the call that is answered here, as W3C trace context; empty: there is none."""
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the call that is answered here, which its lines in the log have; empty: this is no call."""


@dataclass(frozen=True)
class Span:
    """What took from `start_s` to `end_s`, in seconds since 1970. `error`: why it failed."""

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    children: tuple[Span, ...] = ()
    error: str = ""
    serves: bool = False
    """Whether it answers a call of another program."""
