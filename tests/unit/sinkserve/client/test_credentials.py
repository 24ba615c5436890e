"""What a client says of itself: from arguments, from settings, from files that change."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from common.settings import SettingsError
from sinkserve.client import Client, InvalidArgument, tls_credentials, token_file
from sinkserve.client.settings import ClientSettings

NOBODY = "127.0.0.1:1"


def said(client: Client) -> str | None:
    token = client._runtime._token
    return token() if token else None


def test_arguments_go_before_settings_and_all_addresses_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(Client(NOBODY, NOBODY)) is None
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("SINKSERVE_CLIENT_TOKEN", "from the environment")
    assert said(Client(NOBODY, NOBODY)) == said(Client()) == "from the environment"
    monkeypatch.setenv("SINKSERVE_CLIENT_TOKEN_FILE", str(tmp_path / "token"))
    client = Client(NOBODY, NOBODY)
    assert said(client) == "from a file"
    (tmp_path / "token").write_text("renewed")
    assert said(client) == "renewed"
    assert said(Client(NOBODY, NOBODY, token="given")) == "given"
    assert {peer._token for peer in client._peers} == {client._runtime._token}
    assert "environment" not in repr(ClientSettings.load())


def test_credentials_need_files_that_are_there_and_belong_together(tmp_path: Path) -> None:
    assert isinstance(tls_credentials(), grpc.ChannelCredentials)
    with pytest.raises(ValueError, match="belong together"):
        tls_credentials(certificate=tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        token_file(tmp_path / "x")
    for settings, name in (({"ca": tmp_path / "x"}, "_CA"), ({"cert": tmp_path / "x"}, "_CERT")):
        with pytest.raises(SettingsError, match=name):
            ClientSettings.load(settings).credentials()
    with pytest.raises(SettingsError, match="TOKEN_FILE"):
        ClientSettings.load({"token_file": tmp_path / "x"}).authorization()


def test_options_replace_the_token_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("option")
    settings = ClientSettings.load({"token": "set", "tls": True})
    for options in ({"token": "option"}, {"token_file": tmp_path / "token"}):
        token = settings.with_options(options).authorization()
        assert token is not None
        assert token() == "option"
    plain = settings.with_options({"tls": False, "ca": None, "cert": None, "key": None, "token": ""})
    assert (plain.credentials(), plain.authorization()) == (None, None)


@pytest.mark.parametrize("token", ["a\nb", "a\x07", "clé", "a\x00"])
async def test_a_token_that_cannot_be_sent_is_refused_and_not_told(token: str) -> None:
    async with Client(NOBODY, NOBODY, token=token) as client:
        with pytest.raises(InvalidArgument, match="the token has characters") as caught:
            await client.engines.get("demo")
    assert token not in str(caught.value)
