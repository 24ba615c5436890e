"""Finds a checkpoint's folder or GGUF file if the builder may read it, and hashes its files.

Links are followed first; then the real path must lie under a source root. So the Hugging Face cache works, which is
made of links, and a link that leads out of the roots does not. What is hashed is opened first, and then it is the open
file that has to lie there. Knows nothing about the files' contents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder_service.checkpoint.files import FIELD
from builder_service.checkpoint.gguf.names import part_names
from common.digest import digest_stream
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from common.spec.manifest import EngineFile

_MEDIA_TYPES = {
    ".json": "application/json",
    ".jinja": "text/plain",
    ".safetensors": "application/vnd.safetensors",
    ".model": "application/octet-stream",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class SourceFile:
    """A file of a checkpoint when it was hashed: if `stamp` has changed since, the file was written to."""

    path: Path
    digest: str
    size_bytes: int
    stamp: tuple[int, int, int]

    @property
    def as_engine_file(self) -> EngineFile:
        """As the manifest names it."""
        media_type = _MEDIA_TYPES.get(self.path.suffix, "application/octet-stream")
        return EngineFile(path=self.path.name, media_type=media_type, digest=self.digest, size_bytes=self.size_bytes)


def find_folder(path: Path, roots: Sequence[Path]) -> Path:
    """The checkpoint folder at a path, links followed.

    Raises InvalidArgument (SOURCE_NOT_ALLOWED) naming the roots, and NotFound (SOURCE_NOT_FOUND). The root is checked
    first, so that a client does not learn what exists outside the roots.
    """
    folder = _real(path)
    _check_under(folder, roots, str(path))
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112 - see `_real`
        what = "is not a folder that can be read" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
        message = f"{FIELD}: {path} {what}; a folder in Hugging Face's layout is needed, or a .gguf file"
        raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, uri=path)
    for file in folder.iterdir():
        if file.suffix in _MEDIA_TYPES:
            _check_under(_real(file), roots, str(file))
    return folder


def find_file(path: Path, roots: Sequence[Path]) -> Path:
    """The GGUF file at a path, which keeps its own name, since that names its parts: links of the folder are followed,
    those of the files are checked. Raises what `find_folder` and `part_names` do.
    """
    file = _real(path.parent) / path.name
    for name in part_names(path.name):
        part = file.with_name(name)
        _check_under(_real(part), roots, str(part))
        if not os.path.isfile(part) or not os.access(part, os.R_OK):  # noqa: PTH113 - see `_real`
            what = "is not a file that can be read" if os.path.exists(part) else "does not exist"  # noqa: PTH110
            message = f"{FIELD}: {part} {what}; a GGUF file is needed"
            raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, uri=part)
    return file


def check_files(files: Sequence[Path], roots: Sequence[Path]) -> None:
    """Raise InvalidArgument (SOURCE_NOT_ALLOWED) for a file that is outside the roots, whatever its name."""
    for file in files:
        _check_under(_real(file), roots, str(file))


def hash_files(
    paths: Sequence[Path], progress: Callable[[float], None], roots: Sequence[Path] | None = None
) -> tuple[SourceFile, ...]:
    """Read files whole; `progress` gets the share done, 0 to 1.

    Raises NotFound for one that is not there, InvalidArgument (SOURCE_NOT_ALLOWED) for one outside `roots`, if given.
    """
    total = max(1, sum(_stat(path)[0] for path in paths))
    done = 0

    def read(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        progress(done / total)

    return tuple(_hash_file(path, read, roots) for path in paths)


def check_unchanged(files: Sequence[SourceFile]) -> None:
    """Raise FailedPrecondition (CHECKPOINT_INVALID) if a file was written to since it was hashed."""
    for file in files:
        if _stat(file.path) != file.stamp:
            message = f"{file.path.name} was changed while the engine was built from it; build again when it is quiet"
            raise FailedPrecondition(Reason.CHECKPOINT_INVALID, message, file=file.path.name)


def _hash_file(path: Path, read: Callable[[int], None], roots: Sequence[Path] | None) -> SourceFile:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise _missing(path) from None
    with file:
        if roots is not None:
            _check_under(_real(Path(f"/proc/self/fd/{file.fileno()}")), roots, str(path))
        stamp = _stamp(os.fstat(file.fileno()))
        return SourceFile(path, digest_stream(file, read), stamp[0], stamp)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        raise _missing(path) from None


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _missing(path: Path) -> NotFound:
    return NotFound(Reason.SOURCE_NOT_FOUND, f"{path} does not exist", file=path.name)


def _real(path: Path) -> Path:
    """The path with its links followed; os.path, unlike Path, accepts circular links and names that are too long."""
    try:
        return Path(os.path.realpath(path))
    except OSError as error:  # a link that may not be read
        raise NotFound(Reason.SOURCE_NOT_FOUND, f"{FIELD}: {path}: {error.strerror}", field=FIELD, uri=path) from None


def _check_under(path: Path, roots: Sequence[Path], shown: str) -> None:
    if any(path.is_relative_to(root) for root in roots):
        return
    allowed = ", ".join(map(str, roots)) or "none; set SINKSERVE_BUILDER_SOURCE_ROOTS"
    message = f"{FIELD}: {shown} is outside the builder's source roots, which are {allowed}"
    raise InvalidArgument(Reason.SOURCE_NOT_ALLOWED, message, field=FIELD, uri=shown, roots=allowed)
