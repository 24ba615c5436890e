"""HTTP as uvicorn speaks it, with an end to heads that do not come, and errors in the form of the others."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sinkserve.web.errors import WebError, error_response

HEAD_S = 30.0
"""Within which the head of a request has to have come, so that nobody holds a connection by sending little."""


class DoorProtocol(H11Protocol):
    """One connection."""

    head_s = HEAD_S
    _awaited: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """The first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """A head may have come, or begun."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._awaited is None and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP."""
        self._refuse(WebError(400, msg, "invalid_http"))

    def _await_head(self) -> None:
        self._awaited = self.loop.call_later(self.head_s, self._refuse_late)

    def _stop_waiting(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _refuse_late(self) -> None:
        self._awaited = None
        if self.conn.our_state is h11.IDLE:
            what = f"the head of the request has not come within {self.head_s:g} seconds"
            self._refuse(WebError(408, what, "head_too_slow"))

    def _refuse(self, error: WebError) -> None:
        answer = error_response(error)
        headers: Any = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
