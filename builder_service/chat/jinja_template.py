"""Chat templates in Jinja as transformers renders them: in a sandbox, with the same functions and white space.

Source: transformers, `utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from builder_service.chat.chat_template import CLOCK
from builder_service.chat.limits import COMPILE_STEPS, COMPILE_STEPS_EACH, MOST_SOURCE, MOST_TEXT, RENDER_STEPS
from builder_service.chat.sandbox import Sandbox, limited


class JinjaTemplate:
    """One compiled template. Raises whatever foreign code raises."""

    def __init__(self, source: str, variables: Mapping[str, object], now: datetime) -> None:
        self.asked_time = False
        self._now = now
        self._variables = dict(variables)
        if len(source) > MOST_SOURCE:
            raise SecurityError(f"it has {len(source)} characters; at most {MOST_SOURCE} are compiled")
        with limited(COMPILE_STEPS + COMPILE_STEPS_EACH * len(source), "to compile"):  # constants are computed here
            self._template = _environment(self._strftime_now).from_string(source)

    def render(self, messages: Sequence[Mapping[str, object]], *, generation: bool, given: Mapping[str, object]) -> str:
        """The text of `messages`; with `generation` it ends where a reply would begin."""
        always = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generation}
        with limited(RENDER_STEPS, "to render"):
            return _joined(self._template.generate(**{**self._variables, **always, **given}))

    def _strftime_now(self, form: str) -> str:
        self.asked_time = True
        return self._now.strftime(form)


def _joined(pieces: Iterable[str]) -> str:
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > MOST_TEXT:
            raise SecurityError(f"it renders more than {MOST_TEXT} characters")
    return text


def _environment(strftime_now: Callable[[str], str]) -> Sandbox:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        CLOCK: strftime_now,
        "dict": _plain_dict,
        "namespace": _PlainNamespace,
    }
    return environment


class _Generation(Extension):
    """`{% generation %}` marks replies for training; what it marks is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """Refuses names that begin with an underscore: through them a template could leave the sandbox."""

    def __init__(*args: Any, **named: Any) -> None:  # noqa: ANN401 - `self` is a name that templates may use
        for name in dict(*args[1:], **named):
            _check_name(name)
        Namespace.__init__(*args, **named)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r} begins with an underscore")


def _plain_dict(*pairs: Any, **named: Any) -> dict[Any, Any]:  # noqa: ANN401 - what `dict` takes
    """A function instead of the class `dict`: through the class's attributes a template could leave the sandbox."""
    return dict(*pairs, **named)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)
