"""What every way of authentication does with what a call brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest

from common.auth.api_keys import ApiKeys, new_key
from common.auth.authenticator import Authenticator, Certificate, Credentials
from common.auth.bearer import BearerAuthenticator
from common.auth.certificate import CertificateAuthenticator
from common.auth.header import HeaderAuthenticator
from common.auth.key_set import KeyFile
from common.auth.tokens import TokenRules, Tokens
from common.errors import Reason, Unauthenticated
from tests.samples.identity.tokens import AUDIENCE, ISSUER, Issuer


@dataclass(frozen=True)
class Way:
    """One way: credentials of somebody, who that is, and credentials that are wrong."""

    authenticator: Authenticator
    good: Credentials
    name: str
    wrong: tuple[Credentials, ...]


def bearer(value: str) -> Credentials:
    return Credentials((("authorization", f"Bearer {value}"),))


def by_certificate(_: Path) -> Way:
    good = Credentials((), lambda: Certificate("ann"))
    wrong = (Credentials((), lambda: Certificate("")), Credentials((), lambda: Certificate("a\x00b")))
    return Way(CertificateAuthenticator(), good, "cert:ann", wrong)


def by_spiffe_id(_: Path) -> Way:
    good = Credentials((), lambda: Certificate("", "spiffe://example.org/ann"))
    wrong = (Credentials((), lambda: Certificate("", "s" * 300)),)
    return Way(CertificateAuthenticator(), good, "cert:spiffe://example.org/ann", wrong)


def by_header(_: Path) -> Way:
    values = ("", "a" * 256, "a\nb")
    twice = Credentials((("x-user", "ann"), ("x-user", "bob")))
    wrong = (*(Credentials((("x-user", value),)) for value in values), twice)
    return Way(HeaderAuthenticator("X-User"), Credentials((("x-user", "ann"),)), "ann", wrong)


def by_key(folder: Path) -> Way:
    key, entry = new_key("ann")
    other, _ = new_key("ann")
    (folder / "keys").write_text(entry.line)
    authenticator = BearerAuthenticator(ApiKeys("KEYS", folder / "keys"))
    twice = Credentials((*bearer(key).metadata, *bearer(other).metadata))
    return Way(
        authenticator, bearer(key), "key:ann", (bearer(other), bearer(key[:-1]), bearer("a.b.c"), bearer(""), twice)
    )


def by_token(folder: Path) -> Way:
    issuer, stranger = Issuer(), Issuer()
    (folder / "jwks").write_bytes(issuer.jwks)
    rules = TokenRules(ISSUER, (AUDIENCE,), ("ES256",))
    authenticator = BearerAuthenticator(Tokens(KeyFile("JWKS", folder / "jwks", ("ES256",)), rules))
    good = issuer.token()
    unsigned = jwt.encode({"sub": "ann"}, None, "none")  # type: ignore[arg-type]
    with_a_secret = jwt.encode(jwt.decode(good, options={"verify_signature": False}), b"k" * 32, "HS256")
    wrong = (
        stranger.token(),
        stranger.token(header={"kid": jwt.get_unverified_header(good)["kid"]}),
        good[:-4] + "AAAA",
        unsigned,
        with_a_secret,
        "not a token",
        issuer.token(aud="another"),
        issuer.token(iss="https://elsewhere.example.com"),
        issuer.token(aud=None),
        issuer.token(exp=None),
        issuer.token(sub=None),
        issuer.token(sub=""),
        issuer.token(sub="a" * 300),
        issuer.token(nbf=4_000_000_000),
    )
    return Way(authenticator, bearer(good), "jwt:ann", tuple(map(bearer, wrong)))


@pytest.fixture(params=[by_certificate, by_spiffe_id, by_header, by_key, by_token], ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Callable[[Path], Way] = request.param
    return made(tmp_path)


async def test_who_has_credentials_is_who_they_say(way: Way) -> None:
    assert await way.authenticator.identify(way.good) == way.name


@pytest.mark.parametrize("nothing", [Credentials(), Credentials((("authorization", "Basic YTpi"), ("x-other", "ann")))])
async def test_credentials_of_another_kind_are_not_its_business(way: Way, nothing: Credentials) -> None:
    assert await way.authenticator.identify(nothing) is None


async def test_wrong_credentials_are_refused_and_never_repeated(way: Way) -> None:
    for wrong in way.wrong:
        with pytest.raises(Unauthenticated) as caught:
            await way.authenticator.identify(wrong)
        assert caught.value.reason is Reason.CREDENTIALS_INVALID
        said = f"{caught.value.message} {caught.value.metadata} {wrong!r}"
        token = dict(wrong.metadata).get("authorization", "")
        assert len(token) < 20 or str(token)[7:] not in said
