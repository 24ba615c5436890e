"""The blob store: files by digest, in a local folder or in an object store. Knows nothing of engines.

Life of a blob: written aside and digested on the way, on a disk before it gets its name, never changed after; a
reader gets it whole and with the right digest, or an error. `blobs/sha256/HEX` is where it is.

A local folder is written by hand up to the rename, because obstore does not sync what it writes.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from common.digest import CHUNK_BYTES, Hasher, chunks, digest_hex
from common.errors import DataLoss, InvalidArgument, Reason

ReadBytes = Callable[[int], None]
_ASIDE = "uploads"
_NEW_S = 60.0


def _ignore(_size: int) -> None:
    pass


class BlobStore:
    """Blobs by digest. Calls block and move bytes in pieces; many threads and processes may use one store."""

    def __init__(self, store: ObjectStore, root: Path | None) -> None:
        self._store = store
        self._root = root

    def has(self, digest: str) -> bool:
        """Whether there is a blob of this name; says nothing of its bytes."""
        try:
            obstore.head(self._store, _key(digest))
        except FileNotFoundError:
            return False
        return True

    def put(self, path: Path, digest: str, read: ReadBytes = _ignore) -> None:
        """Store a file under its digest; `read` hears the progress in bytes.

        A blob that is there already is read and kept if it is right, replaced if it is not. Raises DataLoss
        (STORE_CORRUPT) if the file does not have the digest; then nothing was stored.
        """
        if self.has(digest) and self._is_right(digest, read):
            return
        if self._root is None:
            obstore.put(self._store, _key(digest), _checked(path, digest, read), chunk_size=CHUNK_BYTES)
        else:
            self._put_local(self._root, path, digest, read)

    def fetch(self, digest: str, path: Path, read: ReadBytes = _ignore) -> None:
        """Copy a blob to `path`, which must not exist; verified. Raises DataLoss if it is missing or wrong."""
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with aside.open("xb") as file:
                for data in self._verified(digest, read):
                    file.write(data)
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)

    def place(self, digest: str, path: Path, read: ReadBytes = _ignore) -> None:
        """Put a verified blob at `path`, which must not exist: a hard link if the store is on its disk, else a copy.

        Whoever gets a link must not write to it: it is the store's own file, and read-only.
        """
        if (blob := self.local_path(digest)) is None:
            return self.fetch(digest, path, read)
        self.verify(digest, read)
        with suppress(OSError):
            path.hardlink_to(blob)
            return None
        return self.fetch(digest, path)

    def verify(self, digest: str, read: ReadBytes = _ignore) -> int:
        """Read a blob and return its size in bytes; raises DataLoss if it is missing or not what it was."""
        return sum(len(data) for data in self._verified(digest, read))

    def local_path(self, digest: str) -> Path | None:
        """Where a blob lies as a file, for memory mapping; None in an object store. Not verified."""
        return self._root / _key(digest) if self._root else None

    def delete(self, digest: str) -> None:
        """Delete a blob; nothing happens if there is none. Who may do this, and when: see `blob_claims`."""
        with suppress(FileNotFoundError):
            obstore.delete(self._store, _key(digest))

    def remove_abandoned(self) -> None:
        """Remove what writers that died have written aside. An object store forgets unfinished uploads by itself."""
        for aside in (self._root / _ASIDE).glob("*") if self._root else ():
            _remove_if_abandoned(aside)

    def digests(self) -> Iterator[str]:
        """Digests of all blobs."""
        for page in obstore.list(self._store, prefix="blobs/sha256"):
            yield from (f"sha256:{item['path'].rpartition('/')[2]}" for item in page)

    def _is_right(self, digest: str, read: ReadBytes) -> bool:
        try:
            self.verify(digest, read)
        except DataLoss:
            return False
        return True

    def _verified(self, digest: str, read: ReadBytes) -> Iterator[bytes]:
        hasher = Hasher()
        try:
            for data in obstore.get(self._store, _key(digest)).stream(min_chunk_size=CHUNK_BYTES):
                hasher.update(piece := bytes(data))
                read(len(piece))
                yield piece
        except FileNotFoundError:
            raise _corrupt(digest, "is missing from the store") from None
        if hasher.digest != digest:
            raise _corrupt(digest, f"now has digest {hasher.digest}")

    def _put_local(self, root: Path, path: Path, digest: str, read: ReadBytes) -> None:
        """Write aside, sync, rename, sync the folder: no crash leaves half a blob under its name."""
        blob = root / _key(digest)
        with _aside(root) as aside, aside.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: see `_remove_if_abandoned`
            for data in _checked(path, digest, read):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            aside.chmod(0o444)
            blob.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(blob)
        _sync_folder(blob.parent)


def open_store(url: str) -> BlobStore:
    """Open a store at a folder, a file:// URL or an object-store URL; raises InvalidArgument if it cannot be."""
    return BlobStore(open_object_store(url), _local_root(url))


def open_object_store(url: str) -> ObjectStore:
    """What is beneath `open_store`, for whatever is not a blob; raises as that does."""
    root = _local_root(url)
    try:
        return from_url(url) if root is None else LocalStore(prefix=root, mkdir=True)
    except (BaseError, OSError, ValueError) as error:
        raise InvalidArgument(Reason.INVALID_FIELD, f"store_url {url!r} cannot be used: {error}") from None


def _local_root(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    return None if parts.scheme else Path(url).absolute()


def _key(digest: str) -> str:
    return f"blobs/sha256/{digest_hex(digest)}"


def _corrupt(digest: str, what: str) -> DataLoss:
    return DataLoss(Reason.STORE_CORRUPT, f"blob {digest} {what}", blob=digest)


def _checked(path: Path, digest: str, read: ReadBytes) -> Iterator[bytes]:
    """The bytes of a file; raises DataLoss after the last one if they do not have the digest."""
    hasher = Hasher()
    with path.open("rb") as file:
        for data in chunks(file):
            hasher.update(data)
            read(len(data))
            yield data
    if hasher.digest != digest:
        raise _corrupt(digest, f"was to be stored from {path.name}, which has digest {hasher.digest}")


@contextmanager
def _aside(root: Path) -> Iterator[Path]:
    aside = root / _ASIDE / uuid.uuid4().hex
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _remove_if_abandoned(aside: Path) -> None:
    """Remove a file that nobody has locked; a new one may be about to be."""
    with suppress(FileNotFoundError, BlockingIOError), aside.open("rb") as file:
        if time.time() - aside.stat().st_mtime > _NEW_S:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
