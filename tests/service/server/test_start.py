"""A service that cannot start leaves nothing behind: no server, no lease, no hold, no open file."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sqlalchemy import func, select

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from builder_service.worker.worker import Worker
from common.catalog.tables import holds
from common.db.database import Database, connect
from common.settings import SharedSettings
from common.spec.published_engine import PublishedEngine
from runtime_service.engines.loader import Loaded
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.tables import replicas
from tests.service.runtime.runtime import Bench


@pytest.fixture
def address() -> str:
    """Free, and the same again for whoever starts next."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Database]:
    """Databases that were closed."""
    databases: list[Database] = []
    close = Database.close

    def noted(database: Database) -> None:
        databases.append(database)
        close(database)

    monkeypatch.setattr(Database, "close", noted)
    return databases


async def test_a_runtime_whose_engine_cannot_be_loaded_stops_what_it_started(
    tmp_path: Path, address: str, closed: list[Database]
) -> None:
    bench = Bench(tmp_path, {"listen": address})
    bench.publish()
    del closed[:]

    def load(_published: PublishedEngine) -> Loaded:
        raise ValueError("no room")

    settings = RuntimeSettings(listen=address, engines=("demo",))
    with pytest.raises(ValueError, match="no room"):
        await start_runtime(settings, bench.shared, load)
    assert len(closed) == 1
    inspector = connect(bench.shared.database)
    with inspector.read() as connection:
        assert connection.scalar(select(func.count()).select_from(replicas)) == 0, "its lease"
        assert connection.scalar(select(func.count()).select_from(holds)) == 0, "its hold on the engine"
    inspector.close()
    await bench.start()  # at the same address
    await bench.stop()


async def test_a_builder_whose_worker_cannot_start_stops_what_it_started(
    tmp_path: Path, address: str, closed: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_worker: Worker) -> None:
        raise OSError("no disk")

    settings, shared = BuilderSettings(listen=address), SharedSettings(home=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", fail)
        with pytest.raises(OSError, match="no disk"):
            await start_builder(settings, shared)
    assert len(closed) == 1
    builder = await start_builder(settings, shared)  # at the same address
    await builder.stop()
    assert len(closed) == 2
