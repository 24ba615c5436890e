"""The files of a GGUF that is split, such as model-00001-of-00003.gguf, and the header of all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from builder_service.checkpoint.files import FIELD, invalid, present
from builder_service.checkpoint.gguf.header import Header, StoredBlocks, read_header
from common.errors import NotFound, Reason
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


def read_headers(path: Path) -> tuple[tuple[Path, ...], Header]:
    """The files that begin with `path`, and the metadata of the first with the tensors of all.

    Raises NotFound (SOURCE_NOT_FOUND) for a part that is missing, and what `part_names` and `read_header` do.
    """
    files = tuple(path.with_name(name) for name in part_names(path.name))
    for file in files:
        if not present(file):
            raise NotFound(Reason.SOURCE_NOT_FOUND, f"{file.parent} has no {file.name}", field=FIELD, file=file.name)
    headers = [read_header(file) for file in files]
    tensors: dict[str, StoredBlocks] = {}
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        _check_part(header.metadata, number, len(files), file)
        if twice := sorted(tensors.keys() & header.tensors.keys()):
            raise invalid(f"{file.name} has tensor {twice[0]}, which an earlier part has too", file=file.name)
        tensors |= header.tensors
    _check_count(headers[0].metadata, tensors, path)
    return files, Header(headers[0].metadata, tensors)


def _check_part(metadata: Any, number: int, count: int, file: Path) -> None:  # noqa: ANN401 - of any types
    says = (metadata.get("split.no", 0), metadata.get("split.count", 0) or 1)
    if says != (number, count):
        message = f"{file.name} has split.no {says[0]!r:.20} and split.count {says[1]!r:.20}; "
        message += f"its name asks for {number} and {count}"
        raise invalid(message, file=file.name)


def _check_count(metadata: Any, tensors: dict[str, StoredBlocks], path: Path) -> None:  # noqa: ANN401 - likewise
    wanted = metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        message = f"{path.name} announces {wanted} tensors in all its parts, and they hold {len(tensors)}"
        raise invalid(message, file=path.name)
