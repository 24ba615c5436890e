"""Which settings let callers in, and which a service does not start with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.auth.api_keys import new_key
from common.auth.authenticator import Certificate, Credentials
from common.auth.login import Doors, Login, Setting, open_login
from common.auth.principal import LOCAL_PRINCIPAL, Role
from common.errors import Reason, Unauthenticated
from common.settings import SettingsError, SharedSettings
from tests.samples.identity.certificates import Authority


def doors(public: str = "127.0.0.1:1", admin: str = "localhost:2", header: str = "") -> Doors:
    return Doors(Setting("LISTEN", public), Setting("ADMIN", admin), Setting("HEADER", header))


HERE, ELSEWHERE = doors(), doors("0.0.0.0:1", "")
BEHIND_PROXY = doors("0.0.0.0:1", header="X-User")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., SharedSettings]:
    return lambda **more: SharedSettings.load({"home": tmp_path, **more})


def with_keys(folder: Path) -> tuple[dict[str, Any], Credentials]:
    key, entry = new_key("ann")
    (folder / "keys").write_text(entry.line)
    return {"auth_keys": folder / "keys"}, Credentials((("authorization", f"bearer {key}"),))


async def who(login: Login, credentials: Credentials, *, at_admin: bool = False) -> str:
    return (await login.principal(credentials, at_admin=at_admin)).name


async def refused(login: Login, credentials: Credentials, *, at_admin: bool = False) -> Reason:
    with pytest.raises(Unauthenticated) as caught:
        await login.principal(credentials, at_admin=at_admin)
    return caught.value.reason


async def test_on_this_machine_nobody_is_asked(settings: Callable[..., SharedSettings]) -> None:
    login = open_login(settings(), HERE)
    anybody = await login.principal(Credentials((("authorization", "Bearer x"),)), at_admin=False)
    assert (anybody.name, anybody.owner) == (LOCAL_PRINCIPAL, LOCAL_PRINCIPAL)
    assert anybody.has(Role.ADMIN)
    assert not anybody.authenticated


def test_where_others_reach_it_that_has_to_be_said(settings: Callable[..., SharedSettings]) -> None:
    for reached in (ELSEWHERE, doors(admin="[::]:2"), doors("example.com:1")):
        with pytest.raises(SettingsError, match=r"SINKSERVE_AUTH_ANONYMOUS: (LISTEN|ADMIN)=.*or say `allow`"):
            open_login(settings(), reached)
        open_login(settings(auth_anonymous="allow"), reached)
    open_login(settings(), BEHIND_PROXY)
    with pytest.raises(SettingsError, match="SINKSERVE_AUTH_POLICY: it is about callers by name"):
        open_login(settings(auth_policy="policy.yaml"), HERE)
    with pytest.raises(SettingsError, match="leaves nobody"):
        open_login(settings(auth_anonymous="refuse"), HERE)


async def test_where_there_are_keys_nobody_comes_in_without(
    settings: Callable[..., SharedSettings], tmp_path: Path
) -> None:
    keys, ann = with_keys(tmp_path)
    with capture_logs() as logs:
        login = open_login(settings(**keys), ELSEWHERE)
        open_login(settings(**keys), HERE)
    assert [(log["event"], log["listens"]) for log in logs] == [("auth.in_clear", ["LISTEN=0.0.0.0:1"])]
    assert await who(login, ann) == "key:ann"
    assert await refused(login, Credentials()) is Reason.CREDENTIALS_MISSING
    with_guests = open_login(settings(**keys, auth_anonymous="allow"), ELSEWHERE)
    guest = await with_guests.principal(Credentials(), at_admin=True)
    assert (guest.name, guest.has(Role.ADMIN)) == (LOCAL_PRINCIPAL, False)
    assert await refused(with_guests, Credentials((("authorization", "Bearer x"),))) is Reason.CREDENTIALS_INVALID


async def test_a_token_says_more_than_the_certificate_that_it_comes_with(
    settings: Callable[..., SharedSettings], tmp_path: Path
) -> None:
    keys, ann = with_keys(tmp_path)
    authority = Authority(tmp_path)
    pair = authority.server()
    tls = {"tls_certificate": pair.certificate, "tls_key": pair.key, "tls_client_ca": authority.certificate}
    login = open_login(settings(**keys, **tls), ELSEWHERE)

    def bob() -> Certificate:
        return Certificate("bob")

    assert await who(login, Credentials((), bob)) == "cert:bob"
    assert await who(login, Credentials(ann.metadata, bob)) == "key:ann"
    assert await refused(login, Credentials((("authorization", "Bearer ssk_x"),), bob)) is Reason.CREDENTIALS_INVALID
    behind_proxy = open_login(settings(**tls), BEHIND_PROXY)
    assert await who(behind_proxy, Credentials((("x-user", "ann"),), bob)) == "ann"
    assert await refused(behind_proxy, Credentials((), bob)) is Reason.CREDENTIALS_MISSING
    assert await who(behind_proxy, Credentials(), at_admin=True) == LOCAL_PRINCIPAL, "an operator of this machine"
    all_reached = open_login(settings(**tls), doors("0.0.0.0:1", "0.0.0.0:2", "X-User"))
    assert await refused(all_reached, Credentials(), at_admin=True) is Reason.CREDENTIALS_MISSING


def test_a_header_that_all_can_write_does_not_go_with_keys(
    settings: Callable[..., SharedSettings], tmp_path: Path
) -> None:
    keys, _ = with_keys(tmp_path)
    with pytest.raises(SettingsError, match="HEADER: the header is believed from whoever connects"):
        open_login(settings(**keys), doors(header="X-User"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tls_certificate": "a"}, "TLS_CERTIFICATE and TLS_KEY belong together"),
        ({"tls_client_ca": "a"}, "TLS_CLIENT_CA needs"),
        ({"auth_jwks": "a"}, "AUTH_ISSUER and AUTH_AUDIENCE"),
        ({"auth_jwks": "http://example.com/keys", "auth_issuer": "a", "auth_audience": "b"}, "AUTH_JWKS.*https"),
        ({"auth_algorithms": "HS256"}, "AUTH_ALGORITHMS"),
        ({"auth_algorithms": ""}, "AUTH_ALGORITHMS"),
        ({"auth_clock_skew_s": 301}, "AUTH_CLOCK_SKEW_S"),
        ({"auth_anonymous": "maybe"}, "AUTH_ANONYMOUS"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    settings: Callable[..., SharedSettings], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        settings(**wrong)


def test_files_that_cannot_be_used_name_their_setting(settings: Callable[..., SharedSettings], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SINKSERVE_AUTH_KEYS: cannot read .*keys"):
        open_login(settings(auth_keys=tmp_path / "keys"), HERE)
    (tmp_path / "keys").write_text("ssk_plain ann today\n")
    with pytest.raises(SettingsError, match="SINKSERVE_AUTH_KEYS: line 1 is not HASH NAME CREATED"):
        open_login(settings(auth_keys=tmp_path / "keys"), HERE)
