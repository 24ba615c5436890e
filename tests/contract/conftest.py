"""The stores that contracts of stores are tested on, and a file to put into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.store.blob_store import BlobStore
from tests.samples.blobs import DATA
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
