"""How a registry is told who asks: by name and password, or by a token that its authority gives for one repository.

Source: distribution's specifications of token authentication and of OAuth2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.artifact.registry.credentials import Credentials

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_CLIENT = "sinkserve"


@dataclass(frozen=True)
class TokenRequest:
    """What the authority at `url` is asked: by GET with a query, or, where there is a form, by POST."""

    url: str
    query: Mapping[str, str]
    form: Mapping[str, str] | None = None
    authorization: str = ""


class Login:
    """Holds the value of the header Authorization for `scope`; empty until a registry asks for it."""

    def __init__(self, credentials: Credentials, scope: str, ask: Callable[[TokenRequest], bytes]) -> None:
        """`ask` carries out a request for a token and returns the answer's body."""
        self._credentials = credentials
        self._scope = scope
        self._ask = ask
        self.header = ""

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing says who we are."""
        return not (self._credentials.basic or self._credentials.identity_token)

    def answer(self, challenge: str) -> bool:
        """Take in what a registry wants to know (WWW-Authenticate); whether it can be asked again.

        Raises what `ask` raises, and ValueError for an authority that gives no token.
        """
        kind, _, parameters = challenge.partition(" ")
        if kind.lower() == "basic":
            before, self.header = self.header, self._credentials.basic
            return self.header != before
        given = dict(_PARAMETER.findall(parameters))
        if kind.lower() != "bearer" or "realm" not in given:
            return False
        self.header = f"Bearer {self._token(given['realm'], given.get('service', ''))}"
        return True

    def _token(self, realm: str, service: str) -> str:
        what = {"scope": self._scope, **({"service": service} if service else {})}
        if self._credentials.identity_token:
            proof = {"grant_type": "refresh_token", "refresh_token": self._credentials.identity_token}
            body = self._ask(TokenRequest(realm, {}, {**what, **proof, "client_id": _CLIENT}))
        else:
            body = self._ask(TokenRequest(realm, what, authorization=self._credentials.basic))
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise ValueError("its authority gives no token")
        return token
