"""The checkpoint that an engine names instead of holding it: found where the spec says, and checked to be the same."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from common.digest import digest_file
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import EngineFile, Manifest

LARGEST_DIGESTED = 64 << 20  # bytes; weights take minutes to read, and are told by their size


def find_checkpoint(manifest: Manifest) -> Path:
    """The folder of the checkpoint that the engine was made from.

    Raises FailedPrecondition (ENGINE_INCOMPATIBLE) for a file that is missing, has another size or, up to
    LARGEST_DIGESTED, another digest.
    """
    folder = Path(unquote(urlsplit(manifest.spec.source.uri).path))
    for file in manifest.source_files:
        if why := _difference(folder / file.path, file):
            message = f"{manifest.reference} needs the checkpoint that it was built from at {folder}: {file.path} {why}"
            raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=manifest.reference, file=file.path)
    return folder


def _difference(path: Path, file: EngineFile) -> str:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != file.size_bytes:
        return f"has {size} bytes, and had {file.size_bytes}"
    if size <= LARGEST_DIGESTED and digest_file(path) != file.digest:
        return "was changed"
    return ""
