"""Model specs in YAML: the message with its field names and lower-case enum words."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import InvalidArgument, NotFound, Reason
from common.spec.checks import check_spec
from common.spec.model_spec import GGUF, ModelSpec
from common.yaml_text import read_yaml

MOST_BYTES = 1 << 20  # of a spec
_URI = re.compile(r"(hf|s3|gs|az):/+(.+)", re.DOTALL)  # as a Path has it, one slash is left


def read_spec_file(path: Path, overrides: Mapping[str, str] | None = None) -> ModelSpec:
    """Read a spec; a relative `source.uri` or `source.adapter` is relative to the file.

    `overrides` replace fields by their dotted path, `cache.window_tokens`; their values are YAML too, and a relative
    path among them is relative to the working directory. Raises NotFound (SOURCE_NOT_FOUND) if there is no
    file, InvalidArgument (INVALID_SPEC) naming each field that is wrong, or the model that was named in its place.
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


def model_instead(path: Path) -> str:
    """What to say of a path that names a model, or a part of one, where a spec is wanted; empty: it may be a spec."""
    uri = _URI.fullmatch(str(path))
    if uri:
        what, model = "names a model elsewhere", f"{uri[1]}://{uri[2]}"
    elif os.path.isdir(path):  # noqa: PTH112 - Path's raises for names that cannot be
        what, model = "is a folder", str(path)
    elif path.suffix.lower() == GGUF:
        what, model = "is a GGUF file", str(path)
    elif path.suffix == ".safetensors" or path.name == "config.json":
        what, model = "is part of a checkpoint", str(path.parent)
    else:
        return ""
    shown = shlex.quote(model)
    return f"{what}, and a spec is YAML: `sinkserve spec init {shown}` writes one, `sinkserve run {shown}` needs none"


def _load(path: Path) -> dict[str, Any]:
    if why := model_instead(path):
        raise _invalid_file(path, why)
    if not os.path.exists(path):  # noqa: PTH110 - likewise
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"there is no spec file {path}", path=path)
    try:
        return _parse(_read(path).decode(), str(path))
    except UnicodeDecodeError:
        raise _invalid_file(path, "is no text in UTF-8, and a spec is YAML: `sinkserve spec init` writes one") from None
    except OSError as error:
        raise _invalid_file(path, f"cannot be read: {error.strerror}") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise _invalid_file(path, "is not a regular file, and has to be one")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise _invalid_file(path, f"is longer than {MOST_BYTES} bytes, the most that a spec may have")
    return data


def _invalid_file(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(Reason.INVALID_SPEC, f"{path} {why}", path=path)


def _parse(text: str, name: str) -> dict[str, Any]:
    data = _value(name, text)
    if not isinstance(data, dict):
        raise InvalidArgument(Reason.INVALID_SPEC, f"{name} has to be a mapping with `name` and `source`")
    return data


def _value(name: str, text: str) -> Any:  # noqa: ANN401 - whatever YAML can say
    try:
        return read_yaml(text, aliases=False)
    except ValueError as error:
        raise InvalidArgument(Reason.INVALID_SPEC, f"{name}: {text[:80]!r} is {error}") from None


def _resolve_source(data: dict[str, Any], folder: Path) -> None:
    """Make a relative path absolute; what is not a path stays as it is, for `check_spec` to judge."""
    source = data.get("source")
    if not isinstance(source, dict):
        return
    paths = {name: path for name in ("uri", "adapter") if isinstance(path := source.get(name), str) and path}
    data["source"] = {**source, **{name: _absolute(path, folder) for name, path in paths.items()}}


def _absolute(uri: str, folder: Path) -> str:
    try:
        return uri if urlsplit(uri).scheme else os.path.realpath(folder / os.path.expanduser(uri))  # noqa: PTH111
    except (OSError, ValueError):  # http://[, a zero byte, a link that may not be read
        return uri


def _set(data: dict[str, Any], dotted: str, value: object) -> None:
    *folders, last = dotted.split(".")
    for part in folders:
        inner = data.get(part)
        data[part] = data = dict(inner) if isinstance(inner, dict) else {}
    data[last] = value
