"""The command line against scripted services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.scripted_builder import start_scripted_builder
from tests.fakes.scripted_runtime import start_scripted_runtime
from tests.service.cli.shell import Shell


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    monkeypatch.chdir(tmp_path)
    shell = Shell("", "", tmp_path)
    building = await start_scripted_builder(shell.builder)
    running = await start_scripted_runtime(shell.runtime)
    shell.environment |= {
        "SINKSERVE_CLIENT_BUILDER": building.address,
        "SINKSERVE_CLIENT_RUNTIME": running.address,
        "SINKSERVE_CLIENT_BUILDER_ADMIN": building.address,
        "SINKSERVE_CLIENT_RUNTIME_ADMIN": running.address,
    }
    yield shell
    await running.stop(0)
    await building.stop(0)
