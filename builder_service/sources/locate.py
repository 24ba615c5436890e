"""Makes a checkpoint and its adapter ready to read: finds a folder or file, or fetches it from the hub or an object
store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder_service.checkpoint.adapter.adapter import open_adapter
from builder_service.checkpoint.adapter.checkpoint import AdaptedCheckpoint
from builder_service.checkpoint.checkpoint import Checkpoint
from builder_service.checkpoint.files import FIELD, said_of_adapter
from builder_service.checkpoint.folder import FolderCheckpoint
from builder_service.checkpoint.gguf.names import is_gguf
from builder_service.checkpoint.opened import open_path
from builder_service.sources.folder import SourceFile, check_files, find_file, find_folder
from builder_service.sources.object_store import ObjectStorePrefix
from builder_service.sources.uri import (
    Folder,
    Place,
    Prefix,
    Remote,
    Repository,
    pinned,
    read_adapter_place,
    read_place,
)
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import ModelSpec, Source, Target


@dataclass(frozen=True)
class Located:
    """A checkpoint's folder or GGUF file, and where it comes from; for the hub, with the commit. Or an adapter's."""

    path: Path
    origin: Source
    fetched: bool
    roots: Sequence[Path] | None = None
    """Where its files have to lie, links followed; None: they were fetched."""
    adapter: Located | None = None
    """What is to be merged into it."""

    def open(self) -> Checkpoint:
        """The checkpoint, with its adapter. Raises what `open_path` and `open_adapter` do."""
        checkpoint = open_path(self.path, self.check_files)
        if self.adapter is None:
            return checkpoint
        with said_of_adapter():
            return AdaptedCheckpoint(checkpoint, open_adapter(self.adapter.path, self.adapter.check_files))

    def check_files(self, files: Sequence[Path]) -> None:
        """Raise InvalidArgument (SOURCE_NOT_ALLOWED) for a file that is outside `roots`, whatever its name."""
        if self.roots is not None:
            check_files(files, self.roots)

    def check_digests(self, files: Sequence[SourceFile]) -> None:
        """Raise DataLoss (CHECKPOINT_INVALID) for a file whose digest is not the hub's."""
        if any(found.fetched and found.origin.revision for found in (self, self.adapter) if found):
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
    """Where a spec's checkpoint and its adapter are, with all their files; `progress` gets the share fetched, 0 to 1.

    Raises InvalidArgument (INVALID_SPEC, SOURCE_NOT_ALLOWED), and what `find_folder`, `find_file`, `Hub.fetch` and
    `ObjectStorePrefix.fetch` do.
    """
    place, adapter_place = read_place(spec.source), read_adapter_place(spec.source)
    if not isinstance(place, Folder):
        remote.check_allowed(place)
    _check_target(spec.target, place)
    fetch = _Fetch(roots, remote, log)
    adapter = None
    if adapter_place:  # first: it is small, and may be wrong
        with said_of_adapter():
            said = Source(uri=spec.source.adapter)
            adapter = fetch(adapter_place, said, work / "adapter", _say_nothing)
    found = fetch(place, spec.source, work / "checkpoint", progress)
    if adapter is None:
        return found
    origin = found.origin.model_copy(update={"adapter": pinned(adapter.origin)})
    return replace(found, origin=origin, adapter=adapter)


@dataclass(frozen=True)
class _Fetch:
    """How one place is made ready."""

    roots: Sequence[Path]
    remote: Remote
    log: Callable[[str], None]

    def __call__(self, place: Place, said: Source, work: Path, progress: Callable[[float], None]) -> Located:
        if isinstance(place, Folder):
            find = find_file if is_gguf(place.path.name) else find_folder
            return Located(find(place.path, self.roots), said, fetched=False, roots=self.roots)
        self.remote.check_allowed(place)
        if isinstance(place, Prefix):
            ObjectStorePrefix(place, self.remote.store_timeout_s).fetch(folder := _made(work), progress)
            self.log(f"fetched {place}")
            return Located(folder / place.file, said, fetched=True)
        from builder_service.sources.hub import Hub  # noqa: PLC0415 - a second that most builds need not wait

        found = Hub(self.remote).fetch(place, self.log, progress)
        return Located(found.folder / place.file, Source(uri=place.uri, revision=found.commit), fetched=True)


@contextmanager
def open_source(source: Source, remote: Remote) -> Iterator[Checkpoint]:
    """A checkpoint to look at before it is built.

    A folder is opened and checked, and so is a GGUF file, which is fetched whole if it is remote, as an adapter is; of
    another remote checkpoint only the files beside the weights are fetched. Raises what `open_path`, `open_adapter` and
    `locate` do; a folder need not lie under a source root.
    """
    place, adapter_place = read_place(source), read_adapter_place(source)
    with ExitStack() as stack:
        checkpoint = _opened(stack.enter_context(_at_hand(place, remote)), place)
        if adapter_place:
            with said_of_adapter():
                folder = stack.enter_context(_at_hand(adapter_place, remote))
                checkpoint = AdaptedCheckpoint(checkpoint, open_adapter(folder))
        yield checkpoint


@contextmanager
def _at_hand(place: Place, remote: Remote) -> Iterator[Path]:
    """The folder or file at a place; of a remote one without weights, but of a GGUF file or an adapter."""
    if isinstance(place, Folder):
        yield place.path
    elif isinstance(place, Prefix):
        with tempfile.TemporaryDirectory() as folder:
            ObjectStorePrefix(place, remote.store_timeout_s).fetch(Path(folder), weights=False)
            yield Path(folder) / place.file
    else:
        from builder_service.sources.hub import Hub  # noqa: PLC0415 - likewise

        yield Hub(remote).fetch(place, _say_nothing, weights=False).folder / place.file


def _opened(path: Path, place: Place) -> Checkpoint:
    """What is there to look at; the weights of a remote checkpoint are not, but of a GGUF file."""
    return open_path(path) if isinstance(place, Folder) or place.file else FolderCheckpoint(path)


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


def _say_nothing(_said: object) -> None:
    pass
