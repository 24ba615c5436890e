"""Certificates, keys and policies change under a conversation, which never notices."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sinkserve.client import Client, Unauthenticated, tls_credentials, token_file
from tests.samples.identity.certificates import Authority
from tests.service.identity.conftest import Callers, Encryption
from tests.service.runtime.runtime import Bench

NOBODY = "127.0.0.1:1"


def presented(address: str, authority: Path) -> str:
    """Certificate that a new connection gets, as PEM."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority))
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


async def test_everything_rotates_under_a_conversation(
    tmp_path: Path, encryption: Encryption, callers: Callers
) -> None:
    bench = Bench(tmp_path / "home", {}, shared_settings={**encryption.settings(mutual=False), **callers.settings})
    bench.publish()
    await bench.start()
    token, address, pair = tmp_path / "token", bench.handle.address, encryption.server
    token.write_text(callers.key("ann") + "\n")
    credentials = tls_credentials(encryption.authority.certificate)
    async with Client(address, NOBODY, credentials=credentials, token=token_file(token)) as sdk:
        async with sdk.conversation("demo") as conversation:
            turn = await conversation.say("hello", max_new_tokens=400, ignore_eos=True)
            before = presented(address, encryption.authority.certificate)
            assert before == pair.certificate.read_text()
            with capture_logs() as logs:
                pair.certificate.write_text(encryption.ann.certificate.read_text())
                assert presented(address, encryption.authority.certificate) == before, "half of a change"
            assert [log["event"] for log in logs] == ["file.refused"]
            encryption.authority.server("next").copy_over(pair)
            assert presented(address, encryption.authority.certificate) == pair.certificate.read_text() != before
            callers.keys.write_text("")
            later = callers.key("ann")
            await turn.wait()
            assert turn.finished is not None
            await (await conversation.say("and?", max_new_tokens=3)).wait()
            with_old = Client(address, NOBODY, credentials=credentials, token=token.read_text().strip())
            async with with_old as other:
                with pytest.raises(Unauthenticated, match="CREDENTIALS_INVALID"):
                    await other.engines.loaded()
            token.write_text(later)
            assert [session.owner async for session in sdk.sessions.list()] == ["key:ann"]
        new_authority = Authority(tmp_path / "new")
        new_authority.server().copy_over(pair)
        assert [session.owner async for session in sdk.sessions.list()] == ["key:ann"], "on its old connection"
    fresh = tls_credentials(new_authority.certificate)
    async with Client(address, NOBODY, credentials=fresh, token=token_file(token)) as sdk:
        assert [session.owner async for session in sdk.sessions.list()] == ["key:ann"]
    await bench.stop()


async def test_a_policy_that_changes_holds_for_the_next_call_and_a_broken_one_does_not(
    tmp_path: Path, callers: Callers
) -> None:
    bench = Bench(tmp_path / "home", {}, shared_settings=callers.settings)
    bench.publish()
    await bench.start()
    key = callers.key("newcomer")
    async with Client(bench.handle.address, NOBODY, token=key) as sdk:

        async def found() -> list[str] | str:
            try:
                return [engine.reference for engine in await sdk.engines.loaded()]
            except Exception as error:  # noqa: BLE001 - what it is, is compared
                return str(error)

        nothing = "PERMISSION_DENIED (ROLE_MISSING): EngineService.ListLoadedEngines needs role talk or build, "
        assert str(await found()).startswith(nothing)
        callers.policy.write_text("rules: [{principals: ['*'], roles: [talk], engines: ['d*']}]")
        assert await found() == ["demo@1"]
        callers.policy.write_text("rules: [{principals: ['*'], roles: [emperor]}]")
        assert await found() == ["demo@1"]
        callers.policy.write_text("rules: [{principals: ['*'], roles: [build]}]")
        assert await found() == []
    await bench.stop()
