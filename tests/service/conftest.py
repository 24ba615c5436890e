"""The runtime that tests of conversations talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.runtime import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Started, with an engine named demo."""
    bench = Bench(tmp_path, {})
    bench.publish()
    await bench.start()
    yield bench
    if bench.channel is not None:
        await bench.channel.close()  # who still speaks leaves: nothing is left to wait for
    await bench.stop()
