"""Model specs in YAML: the message with its field names and lower-case enum words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from common.errors import InvalidArgument, NotFound, Reason
from common.spec import ModelSpec
from common.spec_check import check_spec


def read_spec_file(path: Path, overrides: Mapping[str, str] | None = None) -> ModelSpec:
    """Read a spec; a relative `source.uri` is relative to the file.

    `overrides` replace fields by their dotted path, `cache.window_tokens`; their values are YAML too, and a relative
    `source.uri` among them is relative to the working directory. Raises NotFound (SOURCE_NOT_FOUND) if there is no
    file, InvalidArgument (INVALID_SPEC) naming each field that is wrong.
    """
    data = _load(path)
    _resolve_source(data, path.parent)
    for dotted, text in (overrides or {}).items():
        _set(data, dotted, _value(dotted, text))
    _resolve_source(data, Path.cwd())
    return check_spec(data, prefix="")


def parse_spec(text: str, folder: Path) -> ModelSpec:
    """A spec from YAML text; a relative `source.uri` is relative to `folder`. Raises as `read_spec_file` does."""
    data = _parse(text, "the spec")
    _resolve_source(data, folder)
    return check_spec(data, prefix="")


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"there is no spec file {path}", path=path) from None
    except UnicodeDecodeError:
        raise InvalidArgument(Reason.INVALID_SPEC, f"{path} is not UTF-8", path=path) from None
    return _parse(text, str(path))


def _parse(text: str, name: str) -> dict[str, Any]:
    data = _value(name, text)
    if not isinstance(data, dict):
        raise InvalidArgument(Reason.INVALID_SPEC, f"{name} has to be a mapping with `name` and `source`")
    return data


def _value(name: str, text: str) -> Any:  # noqa: ANN401 - whatever YAML can say
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgument(Reason.INVALID_SPEC, f"{name}: {text[:80]!r} is not YAML: {error}") from None


def _resolve_source(data: dict[str, Any], folder: Path) -> None:
    """Make a relative path absolute; what is not a path stays as it is, for `check_spec` to judge."""
    source = data.get("source")
    uri = source.get("uri") if isinstance(source, dict) else None
    if isinstance(uri, str) and uri and not urlsplit(uri).scheme:
        data["source"] = {**data["source"], "uri": str((folder / Path(uri).expanduser()).resolve())}


def _set(data: dict[str, Any], dotted: str, value: object) -> None:
    *folders, last = dotted.split(".")
    for part in folders:
        inner = data.get(part)
        data[part] = data = dict(inner) if isinstance(inner, dict) else {}
    data[last] = value
