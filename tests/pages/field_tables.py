"""The fields of a spec as tables, from the model's own schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.spec.model_spec import ModelSpec

KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}


def fields() -> str:
    """A section for each part of a spec, with a row for each of its fields."""
    schema = ModelSpec.model_json_schema()
    return "\n\n".join(_part(schema, title, part) for title, part in _parts(schema, schema, ""))


def _parts(schema: Mapping[str, Any], part: Mapping[str, Any], title: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield title, part
    for name, field in part["properties"].items():
        if "properties" in (inner := _resolved(schema, field)):
            yield from _parts(schema, inner, f"{title}.{name}".lstrip("."))


def _resolved(schema: Mapping[str, Any], field: Mapping[str, Any]) -> dict[str, Any]:
    """A field with what its `$ref` says."""
    found: dict[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else {}
    return found | {key: value for key, value in field.items() if key != "$ref"}


def _part(schema: Mapping[str, Any], title: str, part: Mapping[str, Any]) -> str:
    heading = f"### `{title}`" if title else "### At the top"
    known = {name: _resolved(schema, field) for name, field in part["properties"].items()}
    rows = [
        (f"`{name}`", _kind(field), _default(field), _range(field), _line(field["description"]))
        for name, field in known.items()
        if "properties" not in field
    ]
    parts = (heading, _line(part["description"]), table(("field", "type", "default", "allowed", "what it says"), rows))
    return "\n\n".join(parts if rows else parts[:2])


def _kind(field: Mapping[str, Any]) -> str:
    return "word" if "enum" in field and field["type"] == "string" else KINDS[field["type"]]


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "required"
    value = field["default"]
    return "empty" if value in ("", [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{word}`" if word else "empty" for word in field["enum"])
    if "exclusiveMinimum" in field:
        return f"above {field['exclusiveMinimum']:g}, below {field['exclusiveMaximum']:g}"
    if "minimum" in field:
        return f"{field['minimum']:,} to {field['maximum']:,}"
    return f"`{field['pattern']}`" if "pattern" in field else "not empty" if field.get("minLength") else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
