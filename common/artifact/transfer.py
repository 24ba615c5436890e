"""Engines out of a catalog into a folder or a registry, and out of one into another catalog."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol

from pydantic import ValidationError

from common.artifact.errors import NotAnEngine
from common.artifact.model_pack import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Layer,
    artifact_bytes,
    config_bytes,
    engine_layers,
    read_layers,
)
from common.artifact.oci_layout import OciLayout
from common.auth.principal import LONGEST_NAME
from common.catalog.blob_claims import claim_blobs
from common.catalog.catalog import Catalog
from common.catalog.signature import is_of
from common.controls import check_name
from common.db.database import Database
from common.errors import DataLoss
from common.spec.manifest import EngineFile, Manifest
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import BlobStore


class Destination(Protocol):
    """Where the blobs of one artifact go. All raise ArtifactError and OSError."""

    def copy(self, store: BlobStore, layer: Layer) -> None:
        """Keep a blob of a store."""

    def add(self, data: bytes) -> str:
        """Keep a small blob; returns its digest."""
        ...

    def finish(self, artifact: bytes, tag: str) -> None:
        """Name the artifact, whose blobs are all there."""


def export_engine(engine: PublishedEngine, store: BlobStore, to: Destination) -> None:
    """Write an engine with all its files.

    Raises what `to` raises, and DataLoss (STORE_CORRUPT) for a file that is damaged here.
    """
    manifest = engine.manifest
    described = {MANIFEST_FILE: manifest.canonical()}
    if engine.signature:
        described[SIGNATURE_FILE] = engine.signature.encode()
    files = engine_layers(manifest)
    layers = files + [Layer.of_bytes(path, data) for path, data in described.items()]
    for layer in {each.digest: each for each in files}.values():
        to.copy(store, layer)
    config = config_bytes(manifest, engine.create_time, layers)
    for data in (*described.values(), config):
        to.add(data)
    to.finish(artifact_bytes(config, layers), f"{manifest.name}-{manifest.version}")


def import_engine(
    layout: OciLayout, database: Database, catalog: Catalog, store: BlobStore, owner: str
) -> PublishedEngine:
    """Publish the engine in a folder under the next version of its name; one that is there already is returned.

    Raises NotAnEngine for what is none, or is damaged, and InvalidArgument for what is no name of an owner; then
    nothing was published.
    """
    layers = read_layers(layout.artifact())
    check_name(owner, "owner", LONGEST_NAME, least=1)
    draft, signature = _manifest(layout, layers), _signature(layout, layers)
    if signature and not is_of(draft, signature):
        raise NotAnEngine(f"{SIGNATURE_FILE} is no signature of this engine")
    holder = f"imports/{secrets.token_hex(16)}"
    try:
        claim_blobs(database, {file.digest for file in draft.files}, holder)
        for file in draft.files:
            _put(layout, file, store)
        return catalog.publish(draft, holder, new_version=False, owner=owner, signature=signature)
    finally:
        catalog.drop_claims(holder)


def _put(layout: OciLayout, file: EngineFile, store: BlobStore) -> None:
    try:
        store.put(layout.path(file.digest), file.digest)
    except DataLoss:
        raise NotAnEngine(f"{file.path} is damaged: {file.digest} is not what its name says") from None


def _manifest(layout: OciLayout, layers: Mapping[str, Layer]) -> Manifest:
    """The engine's manifest, whose files are the layers. Raises NotAnEngine."""
    if MANIFEST_FILE not in layers:
        raise NotAnEngine(f"it has no {MANIFEST_FILE}, as engines of SinkServe have")
    try:
        manifest = Manifest.model_validate_json(layout.read(layers[MANIFEST_FILE].digest))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotAnEngine(f"{MANIFEST_FILE}: {where}: {first['msg']}; was it written by a newer release?") from None
    for file in manifest.files:
        _check_file(file, layout, layers)
    return manifest.model_copy(update={"name": manifest.spec.name})


def _check_file(file: EngineFile, layout: OciLayout, layers: Mapping[str, Layer]) -> None:
    path, blob = PurePosixPath(file.path), layout.path(file.digest)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise NotAnEngine(f"{MANIFEST_FILE}: {file.path!r} is no path inside an engine")
    if layers.get(file.path) is None or layers[file.path].digest != file.digest:
        raise NotAnEngine(f"{file.path} of {MANIFEST_FILE} is not among its layers")
    if not blob.is_file():
        raise NotAnEngine(f"the blob of {file.path} is missing")
    if (size := blob.stat().st_size) != file.size_bytes:
        raise NotAnEngine(f"{file.path} has {size} bytes, and {MANIFEST_FILE} says {file.size_bytes}")


def _signature(layout: OciLayout, layers: Mapping[str, Layer]) -> str:
    try:
        return layout.read(layers[SIGNATURE_FILE].digest).decode() if SIGNATURE_FILE in layers else ""
    except UnicodeDecodeError:
        raise NotAnEngine(f"{SIGNATURE_FILE} is no text") from None
