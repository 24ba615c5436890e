"""Tokens: time with bounded skew, keys that rotate, keys from a URL that may be slow, large or away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.auth import key_set
from common.auth.key_set import KeyFile, KeyUrl, read_key_set
from common.auth.tokens import TokenRules, Tokens
from common.errors import Reason, Unauthenticated, Unavailable
from tests.samples.identity.tokens import AUDIENCE, ISSUER, Issuer

ES256 = ("ES256",)
RULES = TokenRules(ISSUER, (AUDIENCE, "other"), ES256, clock_skew_s=30)


def at(url: str) -> Tokens:
    return Tokens(KeyUrl(url, ES256, 300.0), RULES)


@dataclass
class Provider:
    """What the provider's server answers, and how often it was asked."""

    issuer: Issuer = field(default_factory=Issuer)
    body: bytes | None = None
    status: int = 200
    asked: int = 0
    url: str = ""


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked += 1
            self.send_response(provider.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(provider.issuer.jwks if provider.body is None else provider.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}/jwks"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield provider
    server.shutdown()
    server.server_close()
    thread.join()


async def test_clocks_may_differ_by_the_skew_and_no_more(provider: Provider) -> None:
    now, tokens = int(time.time()), at(provider.url)
    assert await tokens.verify(provider.issuer.token(exp=now - 20)) == "jwt:ann"
    with pytest.raises(Unauthenticated, match="has expired") as caught:
        await tokens.verify(provider.issuer.token(exp=now - 40))
    assert caught.value.reason is Reason.CREDENTIALS_EXPIRED


async def test_keys_are_fetched_once_and_again_when_a_token_names_a_new_one(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = at(provider.url)
    old = provider.issuer.token()
    assert await asyncio.gather(*(tokens.verify(old) for _ in range(5))) == ["jwt:ann"] * 5
    assert provider.asked == 1
    provider.issuer.rotate()
    new = provider.issuer.token()
    with pytest.raises(Unauthenticated, match="does not have"):  # asked too lately to ask again
        await tokens.verify(new)
    assert provider.asked == 1
    monkeypatch.setattr(key_set, "AGAIN_S", 0.0)
    assert await tokens.verify(new) == await tokens.verify(old) == "jwt:ann"
    assert provider.asked == 2
    provider.issuer.rotate(forget=True)
    assert await tokens.verify(provider.issuer.token()) == "jwt:ann"
    with pytest.raises(Unauthenticated):
        await tokens.verify(new)


async def test_a_provider_that_is_away_is_said_and_keys_that_are_there_go_on(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "AGAIN_S", 0.0)
    provider.status, tokens = 500, at(provider.url)
    token = provider.issuer.token()
    with pytest.raises(Unavailable) as caught:
        await tokens.verify(token)
    assert caught.value.reason is Reason.IDENTITY_PROVIDER_UNAVAILABLE
    assert caught.value.retry_after_s is not None
    provider.status = 200
    assert await tokens.verify(token) == "jwt:ann"
    provider.status = 500
    provider.issuer.rotate()
    with pytest.raises(Unauthenticated):
        await tokens.verify(provider.issuer.token())
    assert await tokens.verify(token) == "jwt:ann"
    monkeypatch.setattr(key_set, "OLDEST_S", -1.0)
    with pytest.raises(Unavailable):
        await tokens.verify(token)


@pytest.mark.parametrize(
    ("body", "status"), [(b" " * (key_set.MOST_BYTES + 1), 200), (b"[]", 200), (b"{", 200), (b"", 302)]
)
async def test_what_is_no_key_set_is_not_taken(provider: Provider, body: bytes, status: int) -> None:
    provider.body, provider.status = body, status
    with pytest.raises(Unavailable):
        await at(provider.url).verify(provider.issuer.token())
    assert provider.asked == 1, "redirects are not followed"


async def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.watched.CHECK_S", 0.0)
    issuer, path = Issuer(), tmp_path / "jwks"
    path.write_bytes(issuer.jwks)
    tokens = Tokens(KeyFile("JWKS", path, ES256), RULES)
    assert await tokens.verify(issuer.token(aud=["x", "other"])) == "jwt:ann"
    issuer.rotate()
    path.write_bytes(b"{}")
    with pytest.raises(Unauthenticated):
        await tokens.verify(issuer.token())
    path.write_bytes(issuer.jwks)
    assert await tokens.verify(issuer.token(header={"alg": "ES256"})) == "jwt:ann"
    with pytest.raises(Unauthenticated):  # it says none, and several would do
        await tokens.verify(issuer.token(header={"kid": None}))


def test_keys_for_something_else_are_left_out() -> None:
    with pytest.raises(ValueError, match="no key for RS256"):
        read_key_set(Issuer().jwks, ("RS256",))
    secret = b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "a"}]}'
    with pytest.raises(ValueError, match="no key for ES256"):
        read_key_set(secret, ES256)
