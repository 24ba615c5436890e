"""Certificates, and callers with keys and tokens, for services that ask who calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.auth.api_keys import new_key
from tests.samples.identity.certificates import Authority, Pair
from tests.samples.identity.tokens import AUDIENCE, ISSUER, Issuer

POLICY = """
rules:
  - {principals: ["key:ops", "cert:ops"], roles: [admin]}
  - {principals: ["key:talker"], roles: [talk], engines: [demo]}
  - {principals: ["key:builder"], roles: [build]}
  - {principals: ["key:ann", "jwt:ann", "cert:ann"], roles: [talk, build], engines: [demo]}
  - {principals: ["key:bob"], roles: [talk, build]}
"""


@dataclass
class Callers:
    """The files that say who may call."""

    folder: Path
    issuer: Issuer = field(default_factory=Issuer)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.keys, self.policy, self.jwks = (self.folder / name for name in ("keys", "policy.yaml", "jwks.json"))
        self.keys.touch()
        self.policy.write_text(POLICY)
        self.jwks.write_bytes(self.issuer.jwks)

    def key(self, name: str) -> str:
        """A new key of a name."""
        key, entry = new_key(name)
        self.keys.write_text(self.keys.read_text() + entry.line)
        return key

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "auth_keys": self.keys,
            "auth_policy": self.policy,
            "auth_jwks": str(self.jwks),
            "auth_issuer": ISSUER,
            "auth_audience": AUDIENCE,
        }


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """With a token."""
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Encryption:
    """An authority, the certificate of a server, and that of a client named ann."""

    authority: Authority
    server: Pair
    ann: Pair

    def settings(self, *, mutual: bool = True) -> dict[str, Any]:
        ca = {"tls_client_ca": self.authority.certificate} if mutual else {}
        return {"tls_certificate": self.server.certificate, "tls_key": self.server.key, **ca}


@pytest.fixture
def callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callers:
    monkeypatch.setattr("common.watched.CHECK_S", 0.0)
    return Callers(tmp_path / "callers")


@pytest.fixture
def encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encryption:
    monkeypatch.setattr("common.watched.CHECK_S", 0.0)
    authority = Authority(tmp_path / "certificates")
    return Encryption(authority, authority.server(), authority.client("ann"))
