"""gRPC-Web as a browser speaks it: HTTP/1.1, a frame for each message, and the trailers in a frame of their own."""

from __future__ import annotations

import asyncio
import struct
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

_FRAME = struct.Struct("!BI")
_TRAILERS = 0x80
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class GrpcWeb:
    """Calls of one service."""

    address: str
    service: str
    metadata: Mapping[str, str]

    async def call(self, method: str, request: Message, answer: type[M]) -> tuple[list[M], str]:
        """All answers, and the gRPC status."""
        packed = request.SerializeToString()
        body = _FRAME.pack(0, len(packed)) + packed
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **self.metadata}
        told = await asyncio.to_thread(self._post, method, body, headers)
        return _read(told, answer)

    async def preflight(self, method: str, origin: str) -> str:
        """Headers that scripts of `origin` may send."""
        headers = {"origin": origin, "access-control-request-method": "POST"}
        asked = urllib.request.Request(self._url(method), headers=headers, method="OPTIONS")
        answer = await asyncio.to_thread(urllib.request.urlopen, asked)
        with answer:
            return str(answer.headers["access-control-allow-headers"])

    def _post(self, method: str, body: bytes, headers: dict[str, str]) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self._url(method), body, headers)) as answer:
            return bytes(answer.read())

    def _url(self, method: str) -> str:
        return f"http://{self.address}/{self.service}/{method}"


def _read(body: bytes, answer: type[M]) -> tuple[list[M], str]:
    messages: list[M] = []
    while body:
        kind, size = _FRAME.unpack_from(body)
        content, body = body[_FRAME.size : _FRAME.size + size], body[_FRAME.size + size :]
        if kind & _TRAILERS:
            trailers = dict(line.split(":", 1) for line in content.decode().splitlines() if line)
            return messages, trailers["grpc-status"].strip()
        messages.append(answer.FromString(content))
    raise AssertionError("no trailers")
