"""Reads whole files of a checkpoint. A name may belong to a pipe, a device or a folder, and a file may be damaged."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import FieldViolation, InvalidArgument, NotFound, Reason, SinkServeError

FIELD = "spec.source.uri"
REVISION_FIELD = "spec.source.revision"
ADAPTER_FIELD = "spec.source.adapter"
MOST_BYTES = 512 << 20  # of a file that is read whole; tokenizers take some tens of megabytes


def present(path: Path) -> bool:
    """Whether the file exists. Raises InvalidArgument (CHECKPOINT_INVALID) if it is not a regular, readable file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise invalid(f"{path} is a link to what does not exist", file=path.name) from None
        return False
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}", file=path.name) from None
    if not stat.S_ISREG(mode):
        raise invalid(f"{path} is not a regular file, and has to be one", file=path.name)
    if not os.access(path, os.R_OK):
        raise invalid(f"{path} may not be read; give the builder's user the permission", file=path.name)
    return True


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises what `present` does, and NotFound (SOURCE_NOT_FOUND)."""
    if not present(path):
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"{path.parent} has no {path.name}", field=FIELD, file=path.name)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MOST_BYTES:
            raise invalid(f"{path} is longer than {MOST_BYTES} bytes, the most that is read of it", file=path.name)
        return stream.read(size)  # not of all that is allowed: Python would take that much memory at once


def read_text(path: Path) -> str:
    """The text of a file. Raises what `read_bytes` does, and InvalidArgument (CHECKPOINT_INVALID) if not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise invalid(f"{path.name} is not UTF-8: {error}", file=path.name) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises what `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path), path.name)


def parse_json(data: bytes, file: str) -> dict[str, Any]:
    """The object that JSON describes; raises InvalidArgument (CHECKPOINT_INVALID) naming `file`."""
    try:
        parsed = json.loads(data)
        if b"\\ud" in data.lower():  # half of a surrogate pair, escaped, is no text, and could not be passed on
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, Python raises plain ValueError
        raise invalid(f"{file} does not hold valid JSON where it should: {error}", file=file) from None
    if not isinstance(parsed, dict):
        raise invalid(f"{file} holds JSON that is not an object", file=file)
    return parsed


def invalid(message: str, *, file: str, tensor: str = "", dtype: str = "") -> InvalidArgument:
    """The error for a checkpoint that is not what it should be."""
    return InvalidArgument(Reason.CHECKPOINT_INVALID, message, field=FIELD, file=file, tensor=tensor, dtype=dtype)


@contextmanager
def said_of_adapter() -> Iterator[None]:
    """What is raised inside, by what reads checkpoints too, names the adapter's field."""
    try:
        yield
    except SinkServeError as error:
        violations = tuple(FieldViolation(_of_adapter(v.field), _of_adapter(v.description)) for v in error.violations)
        metadata: dict[str, Any] = error.metadata
        raise type(error)(
            error.reason,
            _of_adapter(error.message),
            violations=violations,
            retry_after_s=error.retry_after_s,
            **metadata,
        ) from None


def _of_adapter(text: str) -> str:
    return text.replace(FIELD, ADAPTER_FIELD).replace(REVISION_FIELD, ADAPTER_FIELD)
