"""A client in Node talks over TLS with a token, and reads why it may not without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.node import NodeClient
from tests.service.identity.conftest import Callers, Encryption
from tests.service.runtime.runtime import Bench


async def test_a_token_and_an_authority_are_all_it_needs(
    tmp_path: Path, callers: Callers, encryption: Encryption, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").mkdir()
    node = NodeClient.install(tmp_path / "node")
    bench = Bench(tmp_path / "home", {}, shared_settings={**encryption.settings(mutual=False), **callers.settings})
    bench.publish()
    await bench.start()
    address = bench.handle.address.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("SINKSERVE_CLIENT_CA", str(encryption.authority.certificate))
    monkeypatch.setenv("SINKSERVE_CLIENT_TOKEN", callers.issuer.token("ann"))
    saw = await node.sees(address, "hold", texts=["hello"])
    assert (saw["session"]["turns"], saw["session"]["owner"]) == (1, "jwt:ann")
    monkeypatch.setenv("SINKSERVE_CLIENT_TOKEN", "")
    with pytest.raises(AssertionError, match="UNAUTHENTICATED"):
        await node.sees(address, "hold", texts=["hello"])
    await bench.stop()
