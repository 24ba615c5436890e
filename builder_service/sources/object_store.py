"""Checkpoints under a prefix in an object store: copies the files that a build reads into the build's own folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import PreconditionError
from obstore.store import ObjectStore

from builder_service.checkpoint.adapter.adapter import adapter_files
from builder_service.checkpoint.files import FIELD
from builder_service.machine.memory import free_disk_bytes
from builder_service.sources.file_filter import check_room, gguf_files, small_files, weight_files
from builder_service.sources.uri import Prefix
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Reason
from common.store.errors import explained
from common.store.object_store import open_object_store
from common.timeouts import STORE_TIMEOUT_S

PART_BYTES = 16 << 20
_AT_ONCE = 4  # files; so many parts are in memory


def _ignore(_done: float) -> None:
    pass


@dataclass(frozen=True)
class _Object:
    """An object as it was listed; `tag` changes when the object is written to."""

    size_bytes: int
    tag: str | None


class ObjectStorePrefix:
    """The objects directly under a prefix.

    Opening raises InvalidArgument (INVALID_SPEC) for a URL that cannot be used, NotFound (SOURCE_NOT_FOUND) where
    there is nothing, FailedPrecondition and Unavailable (STORE_UNAVAILABLE) for a store that refuses or does not
    answer within `patience_s`.
    """

    def __init__(self, place: Prefix, patience_s: float = STORE_TIMEOUT_S) -> None:
        self._place = place
        self._store = _open(place, patience_s)
        with explained(place.url):
            found = obstore.list_with_delimiter(self._store)["objects"]
        self._objects = {meta["path"]: _Object(meta["size"], meta.get("e_tag")) for meta in found}
        if not found:
            message = f"{FIELD}: there is nothing directly under {place}; a prefix is a folder, not the start of a name"
            raise NotFound(Reason.SOURCE_NOT_FOUND, message, field=FIELD, uri=place)

    def fetch(self, folder: Path, progress: Callable[[float], None] = _ignore, *, weights: bool = True) -> None:
        """Copy the files that a build reads into `folder`, which exists and is empty; without `weights`, only the small
        files beside them, but all of a GGUF, which has none, and of an adapter. `progress` gets the share done, 0 to 1.

        Raises what opening does, what `weight_files` does, FailedPrecondition (CHECKPOINT_INVALID) if an object is
        written to meanwhile, and ResourceExhausted (OUT_OF_DISK).
        """
        where = str(self._place)
        if self._place.file:
            large = gguf_files(self._objects, self._place.file, where)
        elif self._place.adapter:
            large = adapter_files(self._objects, where, "in a copy of it,")
        else:
            self._copy(small_files(self._objects, where), folder, _ignore)
            large = weight_files(self._objects, folder, where, "in a copy of it,")
        if weights or self._place.file or self._place.adapter:
            check_room(self._size(large), free_disk_bytes(folder), where, folder)
            self._copy(large, folder, progress)

    def _size(self, names: tuple[str, ...]) -> int:
        return sum(self._objects[name].size_bytes for name in names)

    def _copy(self, names: tuple[str, ...], folder: Path, progress: Callable[[float], None]) -> None:
        """Copy several files at once; the first failure stops all."""
        heard = _Share(self._size(names), progress)
        with ThreadPoolExecutor(_AT_ONCE, "fetch") as pool:
            copies = [pool.submit(self._copy_one, name, folder / name, heard) for name in names]
            done, waiting = wait(copies, return_when=FIRST_EXCEPTION)
            heard.stopped = bool(waiting)
            pool.shutdown(cancel_futures=True)
        for copy in sorted(done, key=copies.index):
            copy.result()

    def _copy_one(self, name: str, path: Path, heard: _Share) -> None:
        size = self._objects[name].size_bytes
        with path.open("xb") as file:
            for start in range(0, size, PART_BYTES):
                if heard.stopped:
                    return
                part = self._part(name, start, min(size, start + PART_BYTES))
                file.write(part)
                heard.add(len(part))

    def _part(self, name: str, start: int, end: int) -> bytes:
        """Bytes of an object if it is still the one that was listed, so that parts of two versions are never mixed."""
        tag = self._objects[name].tag
        with explained(self._place.url):
            try:
                data = obstore.get(self._store, name, options={"range": (start, end), "if_match": tag}).bytes()
            except (PreconditionError, FileNotFoundError):
                message = f"{self._place.url}/{name} was changed while it was read; build again when it is quiet"
                raise FailedPrecondition(Reason.CHECKPOINT_INVALID, message, file=name) from None
        if len(data) != end - start:
            message = f"{self._place.url}/{name} ended early; build again"
            raise DataLoss(Reason.CHECKPOINT_INVALID, message, file=name)
        return bytes(data)


class _Share:
    """Counts received bytes and reports their share of `total`; several threads call it."""

    def __init__(self, total: int, progress: Callable[[float], None]) -> None:
        self.stopped = False
        self._total = max(1, total)
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self._done += size_bytes
            self._progress(min(1.0, self._done / self._total))


def _open(place: Prefix, patience_s: float) -> ObjectStore:
    try:
        return open_object_store(place.url, patience_s)
    except InvalidArgument as error:
        cause = error.message.partition(" cannot be used: ")[2] or error.message
        raise InvalidArgument(Reason.INVALID_SPEC, f"{FIELD}: {place} cannot be used: {cause}", field=FIELD) from None
