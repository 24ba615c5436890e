"""A worker with children that follow a script."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.scripted_builds import ScriptedBuilds


@pytest.fixture
async def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedBuilds]:
    made = ScriptedBuilds(tmp_path, monkeypatch)
    yield made
    for each in made.workers:
        await each.stop()
    made.database.close()
