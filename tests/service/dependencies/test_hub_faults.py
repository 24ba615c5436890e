"""The hub fails in each way: a build is told within the setting, and what comes later is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from builder_service.sources.hub import Hub, Snapshot
from builder_service.sources.uri import Remote, Repository
from common.errors import Unavailable
from tests.fakes.hub import FakeHub, fake_hub, files_of
from tests.samples.checkpoints import write_checkpoint
from tests.servers.faulty_proxy import Fault, FaultyProxy


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with fake_hub() as hub:
        hub.repository().commit(files_of(write_checkpoint(tmp_path / "model")))
        yield hub


@pytest.fixture
async def proxy(hub: FakeHub) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(hub.address.removeprefix("http://")) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.RESET, Fault.SILENCE, Fault.NONSENSE])
async def test_a_build_is_told_and_the_next_one_gets_it_whole(proxy: FaultyProxy, fault: Fault) -> None:
    await proxy.become(fault)
    with pytest.raises(Unavailable, match="could not be had from"):
        await _fetched(proxy, 1.0)
    await proxy.become(Fault.NONE)
    assert (await _fetched(proxy, 60.0)).folder.joinpath("config.json").exists()


async def test_a_slow_one_is_waited_for(proxy: FaultyProxy) -> None:
    await proxy.become(Fault.SLOW)
    assert (await _fetched(proxy, 60.0)).folder.joinpath("model.safetensors").exists()


async def _fetched(proxy: FaultyProxy, patience_s: float) -> Snapshot:
    remote = Remote(hub_endpoint=f"http://{proxy.address}", roots=("hf://",), hub_timeout_s=patience_s)
    return await asyncio.to_thread(Hub(remote).fetch, Repository("org/model", ""), lambda _line: None)
