"""HTTP to one registry: TLS, and who we are. Every wait is bounded, and so is every answer that is kept."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx2

from common.artifact.errors import RegistryRefused, RegistrySilent
from common.artifact.registry.credentials import credentials_for
from common.artifact.registry.failures import explained, refusal
from common.artifact.registry.login import Login, TokenRequest
from common.artifact.registry.name import RegistryName
from common.artifact.registry.settings import RegistrySettings
from common.loopback import is_loopback

_MOST_TO_CONNECT_S, _PAUSE_S = 10.0, 1.0
_LONGEST = 4 * 2**20
"""Bytes of an answer that is kept: a manifest, a token, words of an error."""

Body = Callable[[], bytes | Iterable[bytes]]
"""Makes what is sent, anew for each try."""
Headers = Mapping[str, str]
_NONE: Headers = {}


def _nothing() -> bytes:
    return b""


@dataclass(frozen=True)
class Answer:
    """An answer that is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RegistryLink:
    """The registry of `name`, for its one repository. For one thread."""

    def __init__(self, name: RegistryName, settings: RegistrySettings, actions: str) -> None:
        """`actions`: `pull`, or `pull,push`. Raises RegistryRefused for settings that cannot be used."""
        self.name = name
        self._patience_s = settings.timeout_s / 2  # for a try, of which there are two
        self._plain = settings.plain_http
        self._origin = f"{'http' if self._may_be_plain(name.host) and not settings.ca else 'https'}://{name.host}"
        credentials = credentials_for(name.host, settings)
        self._client = httpx2.Client(
            verify=_trust(settings),
            timeout=httpx2.Timeout(self._patience_s, connect=min(self._patience_s, _MOST_TO_CONNECT_S)),
            event_hooks={"request": [self._check]},
            headers={"User-Agent": "sinkserve", "Accept-Encoding": "identity"},
        )
        self._login = Login(credentials, f"repository:{name.repository}:{actions}", self._ask_for_token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def url(self, path: str) -> str:
        """Of something in the repository, such as `blobs/sha256:...`."""
        return f"{self._origin}/v2/{self.name.repository}/{path}"

    def call(  # noqa: PLR0917 - a request has as many parts
        self, method: str, url: str, asked: str, right: Collection[int], body: Body = _nothing, headers: Headers = _NONE
    ) -> Answer:
        """Send a request and keep the answer, whose status is one of `right`; `asked` is what messages call it.

        Tried again once where the registry does not answer. Raises ArtifactError.
        """
        try:
            return self._call(method, url, asked, right, body, headers)
        except RegistrySilent:
            time.sleep(_PAUSE_S)
            return self._call(method, url, asked, right, body, headers)

    @contextmanager
    def open(self, method: str, url: str, body: Body = _nothing, headers: Headers = _NONE) -> Iterator[httpx2.Response]:
        """Send a request once, and leave the answer to be read. Raises RegistrySilent and RegistryRefused."""
        with explained(self.name.host, self._patience_s):
            response = self._send(method, url, body, headers)
            try:
                yield response
            finally:
                response.close()

    def refuse(self, response: httpx2.Response, asked: str) -> Exception:
        """The error for an answer that is not what was hoped for."""
        return refusal(self.name.host, response.status_code, self._read(response), asked)

    def _call(  # noqa: PLR0917 - likewise
        self, method: str, url: str, asked: str, right: Collection[int], body: Body, headers: Headers
    ) -> Answer:
        with self.open(method, url, body, headers) as response:
            if response.status_code not in right:
                raise self.refuse(response, asked)
            return Answer(response.status_code, response.headers, self._read(response))

    def _send(self, method: str, url: str, body: Body, headers: Headers) -> httpx2.Response:
        response = self._send_once(method, url, body, headers)
        if (
            response.status_code == 401
            and self._is_ours(url)
            and self._login.answer(response.headers.get("WWW-Authenticate", ""))
        ):
            response.close()
            return self._send_once(method, url, body, headers)
        return response

    def _send_once(self, method: str, url: str, body: Body, headers: Headers) -> httpx2.Response:
        known = {"Authorization": self._login.header} if self._login.header and self._is_ours(url) else {}
        request = self._client.build_request(method, url, content=body(), headers={**headers, **known})
        return self._client.send(request, stream=True, follow_redirects=method in {"GET", "HEAD"})

    def _is_ours(self, url: str) -> bool:
        """Whether it is the registry's own, and not an object store's that it sends us to."""
        return url.startswith(f"{self._origin}/")

    def _ask_for_token(self, asked: TokenRequest) -> bytes:
        method = "GET" if asked.form is None else "POST"
        known = {"Authorization": asked.authorization} if asked.authorization else {}
        with explained(self.name.host, self._patience_s):
            request = self._client.build_request(method, asked.url, params=asked.query, data=asked.form, headers=known)
            response = self._client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise self.refuse(response, f"a token for {self.name.repository}")
                return self._read(response)
            finally:
                response.close()

    def _read(self, response: httpx2.Response) -> bytes:
        """All of a short answer, in a bounded time."""
        until, data = time.monotonic() + self._patience_s, b""
        for piece in response.iter_raw():
            data += piece
            if len(data) > _LONGEST:
                raise ValueError(f"more than {_LONGEST} bytes came")
            if time.monotonic() > until:
                raise httpx2.ReadTimeout("it comes too slowly")
        return data

    def _check(self, request: httpx2.Request) -> None:
        """Wherever we are sent: nothing goes in the clear that should not."""
        if request.url.scheme != "https" and not self._may_be_plain(request.url.netloc.decode()):
            what = f"the registry {self.name.host} sends us to {request.url.host} without TLS"
            raise RegistryRefused(what, hint="--plain-http, or SINKSERVE_REGISTRY_PLAIN_HTTP=true, would go there")

    def _may_be_plain(self, host: str) -> bool:
        return self._plain or is_loopback(host if host.rpartition(":")[2].isdecimal() else f"{host}:0")


def _trust(settings: RegistrySettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca)
    except OSError as error:  # an SSLError is one
        what = f"{settings.ca} has no certificates in PEM that could be read: {error.strerror or error}"
        raise RegistryRefused(what, hint="--ca FILE, or SINKSERVE_REGISTRY_CA, names authorities") from None
