"""Every call's principal: who it is by the ways that are set up, and what it may by the policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from common.auth.api_keys import ApiKeys
from common.auth.authenticator import Authenticator, Credentials
from common.auth.bearer import BearerAuthenticator, Verifier
from common.auth.certificate import CertificateAuthenticator
from common.auth.header import HeaderAuthenticator
from common.auth.key_set import KeyFile, KeySource, KeyUrl
from common.auth.policy import Policy, Rule, policy_of
from common.auth.principal import LOCAL_PRINCIPAL, Principal, Role
from common.auth.quotas import Quotas
from common.auth.tokens import TokenRules, Tokens
from common.errors import Reason, Unauthenticated
from common.loopback import is_loopback
from common.settings import SettingsError, SharedSettings

log = structlog.get_logger()

ANYBODY = Principal(LOCAL_PRINCIPAL, frozenset(Role), ("*",), authenticated=False)
"""Whoever calls where nobody is asked who they are: what they may is a question of the address."""

_NOT_ADMIN = (Role.TALK, Role.BUILD)
_OWN_ENGINES = Policy(rules=(Rule(principals=("*",), roles=_NOT_ADMIN),))
_ALL_ENGINES = Policy(rules=(Rule(principals=("*",), roles=_NOT_ADMIN, engines=("*",)),))


class Login:
    """Asks each authenticator in turn. Without credentials: `anonymous`, else, at the admin listener, `operator`."""

    def __init__(
        self,
        authenticators: tuple[Authenticator, ...],
        policy: Callable[[], Policy],
        *,
        anonymous: bool = False,
        operator: Principal | None = None,
    ) -> None:
        self._authenticators = authenticators
        self._policy = policy
        self._anonymous = anonymous
        self._operator = operator

    def quotas_of(self, name: str) -> Quotas:
        """Of a principal who need not call now."""
        return self._policy().principal(name).quotas

    async def principal(self, credentials: Credentials, *, at_admin: bool) -> Principal:
        """Who calls. Raises Unauthenticated, and Unavailable if that cannot be known now."""
        for authenticator in self._authenticators:
            if (name := await authenticator.identify(credentials)) is not None:
                return self._policy().principal(name)
        if at_admin and self._operator is not None:
            return self._operator
        if self._anonymous:
            return self._policy().principal(LOCAL_PRINCIPAL, authenticated=False)
        what = "the call says nobody's name: it needs a token, a key or a certificate"
        raise Unauthenticated(Reason.CREDENTIALS_MISSING, what)


class OpenLogin(Login):
    """Asks nobody."""

    def __init__(self) -> None:
        super().__init__((), lambda: _OWN_ENGINES)

    async def principal(self, credentials: Credentials, *, at_admin: bool) -> Principal:
        """Anybody."""
        del credentials, at_admin
        return ANYBODY


class Setting(NamedTuple):
    """Of a service, by its name."""

    name: str
    value: str


@dataclass(frozen=True)
class Doors:
    """How others reach a service: its listeners, and the header in which a proxy names them."""

    public: Setting
    admin: Setting
    header: Setting

    @property
    def reached(self) -> list[str]:
        """Settings of listeners that let other machines in."""
        return [f"{each.name}={each.value}" for each in (self.public, self.admin) if _is_reached(each)]


def _is_reached(listener: Setting) -> bool:
    return bool(listener.value) and not is_loopback(listener.value)


def open_login(settings: SharedSettings, doors: Doors) -> Login:
    """The login that settings describe.

    Raises SettingsError for files that cannot be used, and where a service that asks nobody who they are can be
    reached from elsewhere, unless that is said.
    """
    authenticators = _authenticators(settings, doors.header)
    if not authenticators:
        _refuse_elsewhere(settings, doors)
        return OpenLogin()
    behind_proxy = bool(doors.header.value)
    if settings.tls_certificate is None and doors.reached and not behind_proxy:
        log.warning("auth.in_clear", listens=doors.reached, better="SINKSERVE_TLS_CERTIFICATE, or a proxy with TLS")
    otherwise = _ALL_ENGINES if behind_proxy else _OWN_ENGINES
    policy = policy_of("SINKSERVE_AUTH_POLICY", settings.auth_policy, otherwise)
    operator = ANYBODY if behind_proxy and not _is_reached(doors.admin) else None
    return Login(authenticators, policy, anonymous=settings.auth_anonymous == "allow", operator=operator)


def _authenticators(settings: SharedSettings, header: Setting) -> tuple[Authenticator, ...]:
    verifiers = _verifiers(settings)
    if header.value and verifiers:
        what = "is believed from whoever connects, so tokens and keys beside it (SINKSERVE_AUTH_*) would ask nobody"
        raise SettingsError(f"{header.name}: the header {what}; set one or the other")
    if header.value:  # the certificates are the proxy's
        return (HeaderAuthenticator(header.value),)
    bearer: tuple[Authenticator, ...] = (BearerAuthenticator(*verifiers),) if verifiers else ()
    return (*bearer, CertificateAuthenticator()) if settings.tls_client_ca else bearer


def _verifiers(settings: SharedSettings) -> list[Verifier]:
    found: list[Verifier] = []
    if settings.auth_keys is not None:
        found.append(ApiKeys("SINKSERVE_AUTH_KEYS", settings.auth_keys))
    if settings.auth_jwks:
        rules = TokenRules(
            settings.auth_issuer,
            settings.auth_audience,
            settings.auth_algorithms,
            settings.auth_principal_claim,
            settings.auth_clock_skew_s,
        )
        found.append(Tokens(_key_source(settings), rules))
    return found


def _key_source(settings: SharedSettings) -> KeySource:
    where, algorithms = settings.auth_jwks, settings.auth_algorithms
    if "://" in where:
        return KeyUrl(where, algorithms, settings.auth_jwks_refresh_s)
    return KeyFile("SINKSERVE_AUTH_JWKS", Path(where).expanduser(), algorithms)


def _refuse_elsewhere(settings: SharedSettings, doors: Doors) -> None:
    if settings.auth_anonymous == "refuse":
        raise SettingsError("SINKSERVE_AUTH_ANONYMOUS: `refuse` leaves nobody: no way of authentication is set up")
    if settings.auth_policy is not None:
        raise SettingsError("SINKSERVE_AUTH_POLICY: it is about callers by name, and no way to know one is set up")
    if doors.reached and settings.auth_anonymous != "allow":
        raise SettingsError(
            f"SINKSERVE_AUTH_ANONYMOUS: {' and '.join(doors.reached)} can be reached from other machines, and nobody "
            "is asked who they are: set up SINKSERVE_AUTH_KEYS, SINKSERVE_AUTH_JWKS or SINKSERVE_TLS_CLIENT_CA, or a "
            "proxy's header, or listen on 127.0.0.1, or say `allow`"
        )
