"""`--template NAME=VALUE` of `chat` and `run`: what the chat template gets by name."""

from __future__ import annotations

import json
from collections.abc import Iterable

from common.spec.chat.template_choices import Value
from sinkserve.cli.terminal.failures import WRONG, Failure


def read_variables(given: Iterable[str]) -> dict[str, Value]:
    """NAME=VALUE to a mapping: true, false and numbers count as such, all else is text. Raises Failure."""
    found: dict[str, Value] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name.strip() and equals):
            raise Failure(f"--template takes NAME=VALUE, such as enable_thinking=false, not {pair!r}", code=WRONG)
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
