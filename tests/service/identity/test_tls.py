"""TLS at every listener, and what either side reads when only one of them speaks it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.rpc.probe import probe_page
from common.rpc.tls import Tls
from common.settings import SettingsError
from sinkserve.client import Client, Unreachable, tls_credentials
from tests.samples.identity.certificates import Authority
from tests.service.identity.conftest import Encryption
from tests.service.runtime.runtime import Bench

NOBODY = "127.0.0.1:1"


@asynccontextmanager
async def served(folder: Path, entrance: dict[str, Any]) -> AsyncIterator[Bench]:
    bench = Bench(folder / "home", {}, shared_settings=entrance)
    bench.publish(owner="cert:ann")
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()


async def failure(address: str, **client: Any) -> str:
    async with Client(address, NOBODY, **client) as sdk:
        with pytest.raises(Unreachable) as caught:
            await sdk.engines.loaded()
    return caught.value.message


async def test_a_client_with_a_certificate_talks_over_tls_and_others_are_told_what_is_wrong(
    tmp_path: Path, encryption: Encryption, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKSERVE_RUNTIME_METRICS_LISTEN", "127.0.0.1:0")
    ca, ann = encryption.authority.certificate, encryption.ann
    other = Authority(tmp_path / "other")
    async with served(tmp_path, encryption.settings()) as bench:
        credentials = tls_credentials(ca, ann.certificate, ann.key)
        async with Client(bench.handle.address, NOBODY, credentials=credentials) as sdk:
            async with sdk.conversation("demo") as conversation:
                await (await conversation.say("hello", max_new_tokens=3)).wait()
            assert [session.owner async for session in sdk.sessions.list()] == ["cert:ann"]
        for address in (bench.handle.address, bench.handle.admin_address):
            assert "the server hung up at once: it speaks TLS" in await failure(address)
            assert "or it wants a client's certificate" in await failure(address, credentials=tls_credentials(ca))
            stranger = other.client("ann")
            foreign = tls_credentials(ca, stranger.certificate, stranger.key)
            assert "certificate" in await failure(address, credentials=foreign)
            distrust = tls_credentials(other.certificate, ann.certificate, ann.key)
            assert "not one that this client trusts" in await failure(address, credentials=distrust)
        page = f"{bench.handle.metrics.address}/readyz"
        assert await asyncio.to_thread(probe_page, page, tls=True) == "SERVING"
        assert "UNAVAILABLE" in await asyncio.to_thread(probe_page, page, tls=False)
        assert "NOT_SERVING (404)" in await asyncio.to_thread(probe_page, f"{page}/x", tls=True)


async def test_a_client_that_speaks_tls_is_told_that_the_server_does_not(bench: Bench, encryption: Encryption) -> None:
    said = await failure(bench.handle.address, credentials=tls_credentials(encryption.authority.certificate))
    assert said.startswith("this client speaks TLS, and the server does not")


@pytest.mark.long
async def test_the_command_line_speaks_tls_with_options_and_says_what_is_wrong_without(
    tmp_path: Path, encryption: Encryption
) -> None:
    ann = encryption.ann

    async def engines(*options: object) -> tuple[int, str]:
        words = ("engines", "loaded", "--runtime", bench.handle.address, *map(str, options))
        command = (sys.executable, "-m", "sinkserve.cli", *words)
        ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        return ran.returncode, " ".join((ran.stdout + ran.stderr).split())

    async with served(tmp_path, encryption.settings()) as bench:
        pair = ("--cert", ann.certificate, "--key", ann.key)
        code, said = await engines("--ca", encryption.authority.certificate, *pair)
        assert (code, "demo@1" in said) == (0, True)
        code, said = await engines()
        assert (code, "hung up at once" in said, "--tls, --ca FILE" in said) == (3, True, True)
        code, said = await engines("--tls", "--cert", ann.certificate)
        assert (code, "belong together" in said) == (2, True)


async def test_a_key_that_others_can_read_is_told(encryption: Encryption) -> None:
    pair = encryption.server
    with capture_logs() as logs:
        Tls(pair.certificate, pair.key)
        assert logs == []
        pair.key.chmod(0o644)
        Tls(pair.certificate, pair.key)
    assert [(log["event"], log["mode"]) for log in logs] == [("tls.key_readable", "0644")]


def test_a_certificate_and_a_key_of_another_name_the_settings(encryption: Encryption) -> None:
    with pytest.raises(SettingsError, match="SINKSERVE_TLS_CERTIFICATE.*cannot be used"):
        Tls(encryption.server.certificate, encryption.ann.key)
    with pytest.raises(SettingsError, match="cannot be used"):
        Tls(encryption.server.certificate, encryption.server.key, encryption.server.key)


def test_old_versions_of_tls_are_not_spoken_over_http(encryption: Encryption) -> None:
    context = Tls(encryption.server.certificate, encryption.server.key).http_context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_token_without_tls_to_another_machine_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for address, warned in ((NOBODY, False), ("192.0.2.1:1", True)):
            async with Client(address, NOBODY, token="ssk_secret") as sdk:
                sdk._runtime.channel  # noqa: B018 - made now
            assert bool(caplog.records) == warned
    assert "ssk_secret" not in caplog.text
