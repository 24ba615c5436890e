"""An identity provider for tests: signs tokens, and publishes its keys."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER, AUDIENCE = "https://login.example.com", "sinkserve"


class Issuer:
    """Signs with the last of its keys, and publishes all."""

    def __init__(self) -> None:
        self._keys: list[ec.EllipticCurvePrivateKey] = []
        self.rotate()

    def rotate(self, *, forget: bool = False) -> None:
        """Another key; with `forget` the only one."""
        if forget:
            self._keys.clear()
        self._keys.append(ec.generate_private_key(ec.SECP256R1()))

    def forget_old(self) -> None:
        """Publish no key any more but that which signs."""
        del self._keys[:-1]

    @property
    def jwks(self) -> bytes:
        """Its public keys."""
        return json.dumps({"keys": [self._public(key) for key in self._keys]}).encode()

    def token(self, subject: str = "ann", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is good for five minutes, but for what `claims` say; a claim that is None is left out."""
        now = int(time.time())
        whole = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, **claims}
        said = {name: value for name, value in whole.items() if value is not None}
        headers = {"kid": self._public(self._keys[-1])["kid"], **(header or {})}
        return jwt.encode(said, self._keys[-1], "ES256", headers={k: v for k, v in headers.items() if v is not None})

    def _public(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {**found, "kid": found["x"][:8], "use": "sig"}
