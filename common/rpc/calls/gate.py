"""The one place that every call passes before it is answered, which says who calls and whether they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.auth.authenticator import Certificate, Credentials
from common.auth.login import Login
from common.auth.principal import Principal, Role
from common.errors import PermissionDenied, Reason
from common.rpc.calls.call import Context, current_call
from common.rpc.listeners import Access, AdminListener

_FOR_ALL = ("/grpc.health.", "/grpc.reflection.")
"""Probes have no credentials, and what the messages are is no secret."""


class Gate:
    """Of one listener: the public one if there is an `admin` listener beside it, or that one itself (`at_admin`).

    `access` is what each method takes, as /SERVICE/METHOD; one that is not in it is answered to whoever is known.
    """

    def __init__(
        self, login: Login, access: Mapping[str, Access], admin: AdminListener | None = None, *, at_admin: bool = False
    ) -> None:
        self._login = login
        self._access = access
        self._admin = admin
        self._at_admin = at_admin

    async def admit(self, path: str, context: Context) -> None:
        """Let a call to /SERVICE/METHOD in; raises Unauthenticated, PermissionDenied, Unavailable."""
        if path.startswith(_FOR_ALL):
            return
        call = current_call()
        call.principal = principal = await self._login.principal(_credentials(context), at_admin=self._at_admin)
        self._check(call.method, self._access.get(path), principal)

    def _check(self, method: str, access: Access | None, principal: Principal) -> None:
        if access is None:
            return
        anybodys = access is Access.CHANGE_OWN and not principal.authenticated
        if self._admin is not None and (anybodys or access is Access.ADMINISTRATION):
            raise self._admin.refusal(method)
        roles = (Role.ADMIN,) if self._at_admin else access.roles
        if not any(principal.has(role) for role in roles):
            wanted = " or ".join(roles)
            what = f"{method} needs role {wanted}, which {principal.name!r} does not have"
            raise PermissionDenied(Reason.ROLE_MISSING, what, method=method, role=wanted, principal=principal.name)


def _credentials(context: Context) -> Credentials:
    def certificate() -> Certificate | None:
        found = context.auth_context()
        if "x509_subject" not in found:
            return None
        return Certificate(_text(found, "x509_common_name"), _text(found, "peer_spiffe_id"))

    return Credentials(tuple(context.invocation_metadata() or ()), certificate)


def _text(found: Mapping[str, Any], key: str) -> str:
    """Of bytes that a certificate has; nothing where it has none, or several."""
    values = found.get(key, ())
    return values[0].decode(errors="replace") if len(values) == 1 else ""
