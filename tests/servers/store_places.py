"""Stores for tests, with what lies in them beneath: a local folder, and a bucket of an S3 API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.digest import digest_hex
from common.store.blob_store import BlobStore, open_store
from tests.servers.s3 import Bucket


@dataclass(frozen=True)
class Place:
    """A store, and what lies in it beneath."""

    url: str
    store: BlobStore
    keys: Callable[[], list[str]]
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], None]
    aside: Callable[[], list[str]]

    def spoil(self, digest: str, data: bytes | None = None) -> None:
        """Flip a bit of a blob, or put other bytes in its place."""
        key = f"blobs/sha256/{digest_hex(digest)}"
        spoiled = bytearray(self.read(key))
        spoiled[len(spoiled) // 2] ^= 1
        self.write(key, bytes(spoiled) if data is None else data)


def in_folder(root: Path) -> Place:
    def write(key: str, data: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    return Place(
        url=root.as_uri(),
        store=open_store(root.as_uri()),
        keys=lambda: [
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and path.parent.name != "uploads"
        ],
        read=lambda key: (root / key).read_bytes(),
        write=write,
        aside=lambda: [path.name for path in (root / "uploads").glob("*")],
    )


def in_bucket(bucket: Bucket) -> Place:
    return Place(bucket.url, open_store(bucket.url), bucket.keys, bucket.read, bucket.write, bucket.unfinished)
