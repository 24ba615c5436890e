"""JSON web tokens of one identity provider, as OpenID Connect has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jwt

from common.auth.authenticator import checked_name, refused
from common.auth.key_set import KeySource
from common.errors import Reason, Unauthenticated


@dataclass(frozen=True)
class TokenRules:
    """What a token has to say."""

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    principal_claim: str = "sub"
    clock_skew_s: float = 30.0


class Tokens:
    """`jwt:` and a claim of a token that is signed, of now, from the issuer and for this audience."""

    def __init__(self, keys: KeySource, rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules

    async def verify(self, bearer: str) -> str | None:
        """The principal. Raises Unauthenticated saying what is wrong, and Unavailable without keys."""
        try:
            header = jwt.get_unverified_header(bearer)
        except jwt.PyJWTError:
            raise refused("the bearer is no JSON web token") from None
        key = await self._key(header.get("kid"), str(header.get("alg")))
        return checked_name("jwt", self._claims(bearer, key).get(self._rules.principal_claim))

    async def _key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        if algorithm not in self._rules.algorithms:
            raise refused(f"the token is not signed with {_any_of(self._rules.algorithms)}")
        keys = await self._keys.keys(key_id)
        found = [key for (name, kind), key in keys.items() if kind == algorithm and key_id in (None, name)]
        if len(found) != 1:
            raise refused("the token is signed with a key that the identity provider does not have")
        return found[0]

    def _claims(self, bearer: str, key: jwt.PyJWK) -> dict[str, object]:
        rules = self._rules
        try:
            claims: dict[str, object] = jwt.decode(
                bearer,
                key,
                algorithms=list(rules.algorithms),
                audience=list(rules.audiences),
                issuer=rules.issuer,
                leeway=rules.clock_skew_s,
                options={"require": ["exp", "iss", "aud", rules.principal_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(Reason.CREDENTIALS_EXPIRED, "the token has expired") from None
        except jwt.PyJWTError as error:
            raise refused(f"the token {_WRONG.get(type(error), 'is not valid')}") from None
        return claims


_WRONG = {
    jwt.InvalidAudienceError: "is for another audience",
    jwt.InvalidIssuerError: "is of another issuer",
    jwt.InvalidSignatureError: "has a signature that is not its issuer's",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidIssuedAtError: "was issued at a time that cannot be",
    jwt.MissingRequiredClaimError: "lacks a claim that is needed: exp, iss, aud or the principal's",
}


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(words)
