"""Drafts of manifests, and engines published from them, without a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.digest import digest_of
from common.spec.manifest import Architecture, EngineFile, Manifest, Rope
from common.spec.model_spec import ModelSpec, Source
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import BlobStore

SHAPES = Architecture(
    family="llama",
    layers=2,
    hidden=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate=64,
    vocabulary=384,
    trained_context=512,
    parameters=46_240,
)


def draft(name: str = "demo", files: Mapping[str, bytes] | None = None, build_key: str = "") -> Manifest:
    """A manifest without version; `files` are contents by path."""
    contents = {"model.onnx": b"graph"} if files is None else files
    return Manifest(
        name=name,
        version=0,
        spec=ModelSpec(name=name, source=Source(uri="/models/demo")),
        architecture=SHAPES,
        rope=Rope(inverse_frequencies=(1.0, 0.1, 0.01, 0.001)),
        end_token_ids=(1,),
        text=None,
        kv_bytes_per_slot=1024,
        weight_bytes=5,
        tolerance=1e-4,
        build_key=build_key or digest_of(name.encode()),
        source_files=(),
        tool_versions={"onnx": "1.23.0"},
        files=tuple(
            EngineFile(path=path, media_type="text/plain", digest=digest_of(data), size_bytes=len(data))
            for path, data in contents.items()
        ),
        verification={"divergence": 1e-12},
    )


class Press:
    """Publishes engines with real files."""

    def __init__(self, database: Database, store: BlobStore, folder: Path) -> None:
        self.database = database
        self.store = store
        self.catalog = Catalog(database, store)
        self._folder = folder
        self._count = 0

    def put(self, data: bytes) -> str:
        """Store a blob; returns its digest."""
        self._count += 1
        path = self._folder / f"upload-{self._count}"
        path.write_bytes(data)
        self.store.put(path, digest_of(data))
        return digest_of(data)

    def publish(
        self, name: str = "demo", files: Mapping[str, bytes] | None = None, build_key: str = "", signature: str = ""
    ) -> PublishedEngine:
        """Claim, store and publish."""
        contents = {"model.onnx": b"graph"} if files is None else files
        holder = f"builds/{self._count}"
        claim_blobs(self.database, [digest_of(data) for data in contents.values()], holder)
        for data in contents.values():
            self.put(data)
        return self.catalog.publish(draft(name, contents, build_key), holder, signature=signature)
