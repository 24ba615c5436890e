"""Two replicas, on each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.db.database import connect
from common.db.schema import upgrade
from tests.servers.databases import new_database_url, one_by_day
from tests.service.replicas.pair.replicas import Replicas
from tests.service.runtime.runtime import Bench
from tests.service.runtime.tooled import TOOLED


@pytest.fixture(params=one_by_day())
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replicas]:
    with new_database_url(request.param, tmp_path) as url:
        database = connect(url)
        upgrade(database)
        database.close()
        benches = [Bench(tmp_path, {}, url) for _ in range(2)]
        benches[0].publish(text=TOOLED)
        for bench in benches:
            await bench.start()
        yield Replicas(*benches)
        for bench in benches:
            if bench.channel is not None:
                await bench.channel.close()
            await bench.stop()
