"""A service's two listeners: the public one answers what clients ask, the admin one also what changes things for all.

Whoever reaches the public address may talk and build; only who reaches the admin address may unload or delete what
others use. See docs/operate/trust.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from common.errors import PermissionDenied, Reason


@dataclass(frozen=True)
class AdminListener:
    """Where administration is answered: HOST:PORT or empty for nowhere, and the setting that says so."""

    listen: str
    setting: str

    def refusal(self, method: str) -> PermissionDenied:
        """The error of a call to `method` at the public listener."""
        name = method.rpartition(".")[2].replace("/", ".")
        where = "a loopback address of the server's machine" if self.listen else "which is none here"
        what = f"{name} is administration: call it at the admin listener, {self.setting} ({where}), not at this address"
        return PermissionDenied(Reason.WRONG_LISTENER, what, method=name, setting=self.setting)


class PublicListener(grpc.aio.ServerInterceptor):
    """Refuses administration: methods, as /SERVICE/METHOD. Goes behind the StatusInterceptor."""

    def __init__(self, administration: frozenset[str], admin: AdminListener) -> None:
        self._administration = administration
        self._admin = admin

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method not in self._administration:
            return handler

        async def refuse(_request: object, _context: object) -> NoReturn:
            raise self._admin.refusal(method)

        # Administration asks once and is answered once.
        return grpc.unary_unary_rpc_method_handler(refuse, handler.request_deserializer, handler.response_serializer)
