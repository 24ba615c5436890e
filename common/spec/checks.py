"""Makes a model spec from plain data; the error names every field that is wrong.

Used for the wire and for YAML files, so that both report the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.errors import FieldViolation, InvalidArgument, Reason
from common.spec.bounds import bound_violations
from common.spec.model_spec import ModelSpec


def check_spec(data: Mapping[str, Any], prefix: str = "spec") -> ModelSpec:
    """Make a spec; raises InvalidArgument (INVALID_SPEC) with a violation for each field, its path under `prefix`."""
    try:
        spec = ModelSpec.model_validate(data)
    except ValidationError as error:
        raise _wrong(tuple(_violation(item, prefix) for item in error.errors())) from None
    if too_long := tuple(bound_violations(spec)):
        raise _wrong(tuple(FieldViolation(_path(prefix, item.field), item.description) for item in too_long))
    return spec


def _wrong(violations: tuple[FieldViolation, ...]) -> InvalidArgument:
    message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    return InvalidArgument(Reason.INVALID_SPEC, message, violations=violations)


def _violation(item: ErrorDetails, prefix: str) -> FieldViolation:
    path = _path(prefix, *map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return FieldViolation(path, _unknown_field(item["loc"]))
    if item["type"] == "missing":
        return FieldViolation(path, "is required")
    return FieldViolation(path, f"{_shown(item['input'])} is wrong: {_lower(item['msg'])}")


def _path(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _unknown_field(loc: tuple[int | str, ...]) -> str:
    known = _fields_at(loc[:-1])
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return "there is no such field" + (f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}")


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = ModelSpec
    for part in loc:
        inner = model.model_fields[str(part)].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def _shown(value: object) -> str:
    text = repr(value.value if isinstance(value, Enum) else value)
    return text if len(text) <= 80 else text[:80] + "..."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
