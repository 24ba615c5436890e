"""Builds and their queue in a database of each kind, as two processes see them."""

from __future__ import annotations

import pytest

from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.queue.retention import BuildRetention
from common.db.database import Database
from tests.contract.builds.samples import ANYTHING


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def alive() -> set[str]:
    """The processes that run."""
    return {"here", "there"}


@pytest.fixture
def builds(database: Database, heard: list[str]) -> BuildRepository:
    return BuildRepository(database, "here", heard.append)


@pytest.fixture
def retention(database: Database, alive: set[str]) -> BuildRetention:
    return BuildRetention(database, "here", 30.0, alive.__contains__)


@pytest.fixture
def queue(database: Database, heard: list[str], alive: set[str]) -> BuildQueue:
    return BuildQueue(database, "here", ANYTHING, heard.append, alive.__contains__)


@pytest.fixture
def other(database: Database, alive: set[str]) -> BuildQueue:
    """The queue as another process sees it."""
    return BuildQueue(database, "there", ANYTHING, lambda _: None, alive.__contains__)
