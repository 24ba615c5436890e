"""Two catalogs, each with a database and a store of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.db.schema import open_database
from common.store.blob_store import open_store
from tests.samples.drafts import Press


def _press(folder: Path) -> Iterator[Press]:
    folder.mkdir()
    database = open_database(f"sqlite:///{folder / 'sinkserve.db'}")
    yield Press(database, open_store(str(folder / "store")), folder)
    database.close()


@pytest.fixture
def press(tmp_path: Path) -> Iterator[Press]:
    yield from _press(tmp_path / "here")


@pytest.fixture
def other_press(tmp_path: Path) -> Iterator[Press]:
    yield from _press(tmp_path / "there")
