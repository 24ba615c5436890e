"""The stores that contracts of stores are tested on, a file to put into them, and sessions of contracts of sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.store.blob_store import BlobStore, open_store
from common.window import Geometry
from runtime_service.storage.repository import SessionRepository
from tests.samples.blobs import DATA
from tests.samples.whole_manifests import make_manifest
from tests.servers.store_places import Place, in_bucket, in_folder


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        return in_bucket(request.getfixturevalue("bucket"))
    return in_folder(tmp_path / "a store")


@pytest.fixture
def store(place: Place) -> BlobStore:
    return place.store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def repository(database: Database, tmp_path: Path) -> SessionRepository:
    """Of sessions with an engine that is published twice."""
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    for _ in range(2):
        catalog.publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    return SessionRepository(database)
