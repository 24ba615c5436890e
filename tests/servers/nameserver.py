"""A name server that gives every name the same addresses, which change when told so."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Sequence

_A, _IN = 1, 1
_ANSWER = 0x8580  # a response, authoritative, recursion available
_TTL_S = 1
_NAME_OF_QUESTION = 0xC00C  # a pointer to it (RFC 1035, 4.1.4)
_HEADER = struct.Struct("!6H")


class NameServer:
    """Answers over UDP in a thread of its own, until `stop`."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ()
        """IPv4, without ports."""
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                query, sock = self.request
                sock.sendto(answer(query, outer.addresses), self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="name server")
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answer(query: bytes, addresses: Sequence[str]) -> bytes:
    """What to say to a query of one question: all addresses, and none to one that is not for IPv4."""
    number = _HEADER.unpack_from(query)[0]
    end = query.index(b"\0", _HEADER.size) + 5
    question = query[_HEADER.size : end]
    kind = struct.unpack_from("!H", question, len(question) - 4)[0]
    given = addresses if kind == _A else ()
    records = [
        struct.pack("!HHHIH", _NAME_OF_QUESTION, _A, _IN, _TTL_S, 4) + socket.inet_aton(address) for address in given
    ]
    return _HEADER.pack(number, _ANSWER, 1, len(records), 0, 0) + question + b"".join(records)
