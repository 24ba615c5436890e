"""The header of all files of a GGUF that is split, such as model-00001-of-00003.gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder_service.checkpoint.files import FIELD, invalid, present
from builder_service.checkpoint.gguf.header import Header, StoredBlocks, read_header
from builder_service.checkpoint.gguf.names import part_names
from common.errors import NotFound, Reason


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
