"""Replies in a given form: JSON, or JSON by a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from sinkserve.client import ResponseFormat
from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import Body


class _Schema(Body):
    """A schema with its name; `strict` changes nothing, for every reply keeps to its schema."""

    json_schema: dict[str, Any] = Field(alias="schema")
    name: str = ""
    description: str = ""
    strict: bool = True


class _Plain(Body):
    type: Literal["text", "json_object"]


def form_of(given: Mapping[str, Any] | None, where: str) -> ResponseFormat | None:
    """The form that `response_format` or `text.format` asks for; None: any text. Raises WebError.

    The schema stands beside `type`, or below `json_schema`.
    """
    if given is None:
        return None
    kind = given.get("type")
    if kind != "json_schema":
        return {"json_schema": {"type": "object"}} if _Plain.parse(given, where).type == "json_object" else None
    below = given.get("json_schema")
    beside = {name: value for name, value in given.items() if name not in ("type", "json_schema")}
    if below is not None and (beside or not isinstance(below, dict)):
        raise WebError(400, f"{where}.json_schema has to have the whole schema", "invalid_value", where)
    schema = _Schema.parse(beside, where) if below is None else _Schema.parse(below, f"{where}.json_schema")
    return {"json_schema": schema.json_schema}
