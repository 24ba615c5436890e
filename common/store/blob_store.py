"""The blob store: files by digest, in a local folder or in an object store. Knows nothing of engines.

Life of a blob: it is written under a temporary name while its digest is computed, synced to the disk, then renamed, and
never changed after. A reader gets the whole blob with the right digest, or an error. `blobs/sha256/HEX` is where it is.

If two processes put the same blob at once, both write it and the last one stays. The bytes are the same, since a blob
gets its name only after the digest of all its bytes is checked. So no lock and no conditional write is needed.

A local folder is written without obstore, because obstore does not sync. To an object store, several parts are uploaded
at once and become the blob when all are there; then the blob is read back, since nothing else checks what was stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import obstore
from obstore.store import ObjectStore

from common.digest import CHUNK_BYTES, Hasher, chunks, digest_hex, is_digest
from common.errors import DataLoss, Reason
from common.store.atomic_file import remove_abandoned, write_whole
from common.store.errors import explained
from common.store.object_store import local_root, open_object_store, store_name
from common.timeouts import STORE_TIMEOUT_S

ReadBytes = Callable[[int], None]
_ASIDE = "uploads"
_PREFIX = "sha256:"
_PARTS_AT_ONCE = 8  # of one blob: about so many parts are in memory
_PART_BYTES = 8 * 1024 * 1024  # S3 takes no smaller ones than 5 MiB
_MOST_PARTS = 10_000  # of S3


def _ignore(_size: int) -> None:
    pass


class _Progress:
    """Progress over bytes that may be read more than once: `read` gets the size of each byte range once."""

    def __init__(self, read: ReadBytes) -> None:
        self._read = read
        self._reported = 0

    def listener(self, done: Callable[[int], int] = lambda count: count) -> ReadBytes:
        """To be called with the size of each piece of one pass; `done` maps bytes of the pass to bytes in all."""
        heard = 0

        def hear(size_bytes: int) -> None:
            nonlocal heard
            heard += size_bytes
            self._report(done(heard))

        return hear

    def _report(self, done: int) -> None:
        if done > self._reported:
            self._read(done - self._reported)
            self._reported = done


class BlobStore:
    """Blobs by digest. Calls block and move bytes in pieces; many threads and processes may use one store.

    Besides what they name, calls raise what `explained` does: FailedPrecondition for an object store that cannot be
    used, Unavailable for one that does not answer.
    """

    def __init__(self, store: ObjectStore, root: Path | None, name: str = "") -> None:
        """`root` is where a local store's files are; `name` is what messages call the store."""
        self._store = store
        self._root = root
        self._name = name

    def has(self, digest: str) -> bool:
        """Whether there is a blob of this name; says nothing of its bytes."""
        try:
            with explained(self._name):
                obstore.head(self._store, _key(digest))
        except FileNotFoundError:
            return False
        return True

    def put(self, path: Path, digest: str, read: ReadBytes = _ignore) -> None:
        """Store a file under its digest; `read` is called with numbers of bytes that add up to the file's size.

        A blob that is there already is read and kept if it is right, replaced if it is not. Raises DataLoss
        (STORE_CORRUPT) if the file does not have the digest; then nothing was stored.
        """
        progress = _Progress(read)
        if self.has(digest):
            with suppress(DataLoss):
                self.verify(digest, progress.listener())
                return
        if self._root is None:
            self._upload(path, digest, progress)
        else:
            write_whole(self._root / _key(digest), _checked(path, digest, progress.listener()), self._root / _ASIDE)

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

        The link must not be written to: it is the store's own file, and read-only.
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

    def pieces(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """Bytes of a blob from `start` on, which is before its end; not verified. Raises DataLoss if it is missing."""
        try:
            with explained(self._name):
                found = obstore.get(self._store, _key(digest), options={"range": {"offset": start}})
                yield from map(bytes, found.stream(min_chunk_size=CHUNK_BYTES))
        except FileNotFoundError:
            raise _corrupt(digest, "is missing from the store") from None

    def local_path(self, digest: str) -> Path | None:
        """Where a blob lies as a file, for memory mapping; None in an object store. Not verified."""
        return self._root / _key(digest) if self._root else None

    def delete(self, digest: str) -> None:
        """Delete a blob; nothing happens if there is none. Who may do this, and when: see `blob_claims`."""
        with suppress(FileNotFoundError), explained(self._name):
            obstore.delete(self._store, _key(digest))

    def remove_abandoned(self) -> None:
        """Remove temporary files of dead writers in a folder; for an object store, its owner's lifecycle rules do
        it.
        """
        if self._root:
            remove_abandoned(self._root / _ASIDE)

    def digests(self) -> Iterator[str]:
        """Digests of all blobs."""
        return (digest for digest, _ in self.blobs())

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Digest and size in bytes of all blobs, page by page. Other objects are skipped."""
        with explained(self._name):
            for page in obstore.list(self._store, prefix="blobs/sha256"):
                named = ((_PREFIX + item["path"].rpartition("/")[2], item["size"]) for item in page)
                yield from (blob for blob in named if is_digest(blob[0]))

    def _upload(self, path: Path, digest: str, progress: _Progress) -> None:
        """Upload and read back, each half of the progress. If the file has the wrong digest, the upload is aborted."""
        size = path.stat().st_size
        pieces = _checked(path, digest, progress.listener(lambda sent: sent // 2))
        with explained(self._name):
            obstore.put(self._store, _key(digest), pieces, chunk_size=_part_bytes(size), max_concurrency=_PARTS_AT_ONCE)
        self.verify(digest, progress.listener(lambda checked: size // 2 + (checked + 1) // 2))

    def _verified(self, digest: str, read: ReadBytes) -> Iterator[bytes]:
        hasher = Hasher()
        try:
            with explained(self._name):
                for data in obstore.get(self._store, _key(digest)).stream(min_chunk_size=CHUNK_BYTES):
                    hasher.update(piece := bytes(data))
                    read(len(piece))
                    yield piece
        except FileNotFoundError:
            raise _corrupt(digest, "is missing from the store") from None
        if hasher.digest != digest:
            raise _corrupt(digest, f"now has digest {hasher.digest}")


def open_store(url: str, patience_s: float = STORE_TIMEOUT_S) -> BlobStore:
    """Open a store at a folder, a file:// URL or an object-store URL, which may be silent for `patience_s`; raises
    InvalidArgument if it cannot be.
    """
    return BlobStore(open_object_store(url, patience_s), local_root(url), store_name(url))


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


def _part_bytes(size_bytes: int) -> int:
    """Size of the parts of a blob, so that there are not too many."""
    return max(_PART_BYTES, -(-size_bytes // _MOST_PARTS))
