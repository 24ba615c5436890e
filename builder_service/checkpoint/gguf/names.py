"""The names of GGUF files, one of which may be a part of several. Who asks for no more reads no GGUF."""

from __future__ import annotations

import re

from builder_service.checkpoint.files import invalid
from common.spec.model_spec import GGUF

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def is_gguf(name: str) -> bool:
    """Whether a path or URL names a GGUF file; its suffix decides."""
    return name.lower().endswith(GGUF)


def model_name(name: str) -> str:
    """The name of a file without what says that it is GGUF, and which part."""
    found = _PART.fullmatch(name)
    return found[1] if found else name[: -len(GGUF)] if is_gguf(name) else name


def part_names(name: str) -> tuple[str, ...]:
    """Names of all files of which `name` is the first; itself alone if it is not split.

    Raises InvalidArgument (CHECKPOINT_INVALID) for a later part.
    """
    found = _PART.fullmatch(name)
    if found is None:
        return (name,)
    stem, own, count = found[1], int(found[2]), int(found[3])
    if own != 1:
        first = f"{stem}-00001-of-{count:05}.gguf"
        raise invalid(f"{name} is part {own} of {count}; name the first, {first}", file=name)
    return tuple(f"{stem}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1))
