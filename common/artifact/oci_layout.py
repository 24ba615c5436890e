"""A folder in the layout of OCI images, which tools such as oras, skopeo and crane push to any registry, and pull.

Source: opencontainers/image-spec, image-layout.md, 1.1.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

from common.artifact.errors import NotAnEngine
from common.artifact.model_pack import ARTIFACT, OCI_MANIFEST, Layer
from common.digest import digest_hex, digest_of
from common.errors import InvalidArgument, Reason
from common.store.blob_store import BlobStore

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_NAMED = "org.opencontainers.image.ref.name"
_LARGEST = 64 * 2**20
"""Bytes of a file that describes others."""


class OciLayout:
    """Blobs by digest in a folder, and one artifact that its index names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, *, again: bool = False) -> None:
        """Make the folder. Raises InvalidArgument if something is in it, unless it may be there `again`."""
        try:
            if not again and self._folder.exists() and any(self._folder.iterdir()):
                what = f"{self._folder} is not empty; name a folder that is, or does not exist"
                raise InvalidArgument(Reason.INVALID_FIELD, what, field="folder")
            (self._folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=again)
        except OSError as error:
            what = f"{self._folder} cannot be made: {error.strerror}; name a folder that is empty, or does not exist"
            raise InvalidArgument(Reason.INVALID_FIELD, what, field="folder") from None

    def path(self, digest: str) -> Path:
        """Where the blob of a digest is, or is to be."""
        return self._folder / "blobs" / "sha256" / digest_hex(digest)

    def copy(self, store: BlobStore, layer: Layer) -> None:
        """Keep a blob of a store. Raises what the store raises, and OSError."""
        store.fetch(layer.digest, self.path(layer.digest))

    def add(self, data: bytes) -> str:
        """Keep a small blob; returns its digest."""
        digest = digest_of(data)
        self.path(digest).write_bytes(data)
        return digest

    def finish(self, artifact: bytes, tag: str) -> None:
        """Name the artifact, whose blobs are all here."""
        described = {
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT,
            "digest": self.add(artifact),
            "size": len(artifact),
            "annotations": {_NAMED: tag},
        }
        index = {"schemaVersion": 2, "manifests": [described]}
        (self._folder / "oci-layout").write_text(json.dumps(_LAYOUT))
        (self._folder / "index.json").write_text(json.dumps(index))

    def artifact(self) -> bytes:
        """The artifact that the index names. Raises NotAnEngine unless it is one, and right."""
        try:
            index = json.loads(_regular(self._folder / "index.json").read_bytes())
            digests = [str(each["digest"]) for each in index["manifests"]]
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise NotAnEngine(f"{self._folder} is no folder in the layout of OCI images: {error}") from None
        if len(digests) != 1:
            raise NotAnEngine(f"{self._folder} names {len(digests)} artifacts; one is taken")
        return self.read(digests[0])

    def read(self, digest: str) -> bytes:
        """A small blob. Raises NotAnEngine unless it is there, and right."""
        try:
            path = _regular(self.path(digest))
            if (size := path.stat().st_size) > _LARGEST:
                raise NotAnEngine(f"{digest} has {size} bytes; what describes an engine has at most {_LARGEST}")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise NotAnEngine(f"a blob is missing: {error}") from None
        if digest_of(data) != digest:
            raise NotAnEngine(f"{digest} is not what its name says")
        return data


def _regular(path: Path) -> Path:
    """Raises OSError for what is no file: a pipe would be waited for."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return path
