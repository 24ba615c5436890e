"""Makes a checkpoint ready to read: finds its folder or file, or fetches it from the hub or an object store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.files import FIELD
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.checkpoint.gguf.names import is_gguf
from builder_service.checkpoint.opened import open_path
from builder_service.sources.folder import SourceFile, check_files, find_file, find_folder
from builder_service.sources.object_store import ObjectStorePrefix
from builder_service.sources.uri import Folder, Place, Prefix, Remote, Repository, read_place
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import ModelSpec, Source, Target


@dataclass(frozen=True)
class Located:
    """A checkpoint's folder or GGUF file, and where it comes from; for the hub, with the commit."""

    path: Path
    origin: Source
    fetched: bool
    roots: Sequence[Path] | None = None
    """Where its files have to lie, links followed; None: they were fetched."""

    def check_files(self, files: Sequence[Path]) -> None:
        """Raise InvalidArgument (SOURCE_NOT_ALLOWED) for a file that is outside `roots`, whatever its name."""
        if self.roots is not None:
            check_files(files, self.roots)

    def check_digests(self, files: Sequence[SourceFile]) -> None:
        """Raise DataLoss (CHECKPOINT_INVALID) for a file whose digest is not the hub's."""
        if self.fetched and self.origin.revision:
            from builder_service.sources.hub import check_digests  # noqa: PLC0415 - loaded already if it is needed

            check_digests(files)


def locate(
    spec: ModelSpec,
    *,
    roots: Sequence[Path],
    remote: Remote,
    work: Path,
    log: Callable[[str], None],
    progress: Callable[[float], None],
) -> Located:
    """Where a spec's checkpoint is, with all its files; `progress` gets the share fetched, 0 to 1.

    Raises InvalidArgument (INVALID_SPEC, SOURCE_NOT_ALLOWED), and what `find_folder`, `find_file`, `Hub.fetch` and
    `ObjectStorePrefix.fetch` do.
    """
    place = read_place(spec.source)
    if isinstance(place, Folder):
        _check_target(spec.target, place)
        find = find_file if is_gguf(place.path.name) else find_folder
        return Located(find(place.path, roots), spec.source, fetched=False, roots=roots)
    remote.check_allowed(place)
    _check_target(spec.target, place)
    if isinstance(place, Prefix):
        ObjectStorePrefix(place, remote.store_timeout_s).fetch(folder := _made(work / "checkpoint"), progress)
        log(f"fetched {place}")
        return Located(folder / place.file, spec.source, fetched=True)
    from builder_service.sources.hub import Hub  # noqa: PLC0415 - a second that most builds need not wait

    found = Hub(remote).fetch(place, log, progress)
    return Located(found.folder / place.file, Source(uri=place.uri, revision=found.commit), fetched=True)


@contextmanager
def open_source(source: Source, remote: Remote) -> Iterator[Checkpoint]:
    """A checkpoint to look at before it is built.

    A folder is opened and checked, and so is a GGUF file, which is fetched whole if it is remote; of another remote
    checkpoint only the files beside the weights are fetched. Raises what `open_path` and `locate` do; a folder need not
    lie under a source root.
    """
    place = read_place(source)
    if isinstance(place, Folder):
        yield open_path(place.path)
    elif isinstance(place, Prefix):
        with tempfile.TemporaryDirectory() as folder:
            ObjectStorePrefix(place, remote.store_timeout_s).fetch(Path(folder), weights=False)
            yield _opened(Path(folder), place.file)
    else:
        from builder_service.sources.hub import Hub  # noqa: PLC0415 - likewise

        yield _opened(Hub(remote).fetch(place, _say_nothing, weights=False).folder, place.file)


def _opened(folder: Path, file: str) -> Checkpoint:
    """What was fetched to look at; without a GGUF file, the weights are not there."""
    return open_path(folder / file) if file else FolderCheckpoint(folder)


def _check_target(target: Target, place: Place) -> None:
    """TensorRT-LLM engines hold no weights: a runtime reads them from the spec's source, which has to be a folder."""
    if target is not Target.TENSORRT_LLM or (isinstance(place, Folder) and not is_gguf(place.path.name)):
        return
    shown = str(place.path if isinstance(place, Folder) else place)
    name = place.name if isinstance(place, Repository) else "MODEL"
    how = f": hf download {name} --local-dir /models/{name.rpartition('/')[2]}" if isinstance(place, Repository) else ""
    message = f"{FIELD}: a runtime for {target} reads the checkpoint itself, and needs it in a folder, not {shown}{how}"
    raise InvalidArgument(Reason.INVALID_SPEC, message, field=FIELD, uri=shown)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _say_nothing(_text: str) -> None:
    pass
