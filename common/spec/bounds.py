"""How long the texts and lists of a spec may be. Checked where one comes in: what was kept before can still be read."""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import FieldViolation
from common.spec.chat.template_choices import Value
from common.spec.model_spec import ModelSpec

LONGEST_URI = 4096
LONGEST_WORD = 255
LONGEST_VERSION = 64
LONGEST_TEMPLATE = 1 << 18
LONGEST_VALUE = 4096
"""All of these in bytes of UTF-8."""
LARGEST_NUMBER = 2**53
"""Whole numbers beyond this are others on the wire."""
MOST_IGNORED = 256
"""Fields of config.json."""


def bound_violations(spec: ModelSpec) -> Iterator[FieldViolation]:
    """What of a spec is too long, by field."""
    llm = spec.options.tensorrt_llm
    yield from _too_long("source.uri", spec.source.uri, LONGEST_URI)
    yield from _too_long("source.revision", spec.source.revision, LONGEST_WORD)
    yield from _too_long("source.adapter", spec.source.adapter, LONGEST_URI)
    yield from _too_long("chat_template", spec.chat_template, LONGEST_TEMPLATE)
    yield from _too_long("options.tensorrt_llm.version", llm.version, LONGEST_VERSION)
    yield from _too_long("hardware.compute_capability", spec.hardware.compute_capability, LONGEST_VERSION)
    for name, value in spec.template_variables.items():
        yield from _of_variable(name, value)
    yield from _of_ignored(spec.options.ignore_config_fields)


def shown(spec: ModelSpec) -> ModelSpec:
    """A spec as it is told to clients: one that was kept before there were bounds is cut to them."""
    if not any(bound_violations(spec)):
        return spec
    variables = {_cut(name, LONGEST_WORD): _cut_given(value) for name, value in spec.template_variables.items()}
    ignored = tuple(_cut(name, LONGEST_WORD) for name in spec.options.ignore_config_fields[:MOST_IGNORED])
    options = spec.options.model_copy(update={"ignore_config_fields": ignored})
    template = _cut(spec.chat_template, LONGEST_TEMPLATE)
    return spec.model_copy(update={"chat_template": template, "template_variables": variables, "options": options})


def _of_variable(name: str, given: Value | tuple[Value, ...]) -> Iterator[FieldViolation]:
    field = f"template_variables.{name[:LONGEST_WORD]}"
    if len(name.encode()) > LONGEST_WORD:
        yield FieldViolation(field, f"its name has {len(name.encode())} bytes; at most {LONGEST_WORD} are allowed")
    for value in given if isinstance(given, tuple) else (given,):
        if isinstance(value, str):
            yield from _too_long(field, value, LONGEST_VALUE)
        elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            yield FieldViolation(field, f"is beyond {LARGEST_NUMBER}, the largest whole number that is taken")


def _of_ignored(names: tuple[str, ...]) -> Iterator[FieldViolation]:
    field = "options.ignore_config_fields"
    if len(names) > MOST_IGNORED:
        yield FieldViolation(field, f"has {len(names)} names; at most {MOST_IGNORED} are allowed")
    for index, name in enumerate(names[:MOST_IGNORED]):
        yield from _too_long(f"{field}.{index}", name, LONGEST_WORD)


def _too_long(field: str, text: str, most: int) -> Iterator[FieldViolation]:
    if (size := len(text.encode())) > most:
        yield FieldViolation(field, f"has {size} bytes; at most {most} are allowed")


def _cut(text: str, most: int) -> str:
    if len(data := text.encode()) <= most:
        return text
    return f"{data[:most].decode(errors='ignore')}... ({len(data)} bytes)"


def _cut_given(given: Value | tuple[Value, ...]) -> Value | tuple[Value, ...]:
    return tuple(map(_cut_value, given)) if isinstance(given, tuple) else _cut_value(given)


def _cut_value(value: Value) -> Value:
    return _cut(value, LONGEST_VALUE) if isinstance(value, str) else value
