"""What listeners encrypt with: certificates from files, taken anew for new connections when the files change."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from common.settings import SharedSettings
from common.watched import Watched

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

log = structlog.get_logger()


@dataclass(frozen=True)
class _Files:
    """PEM bytes; without `client_ca` no certificate is asked of clients."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class Tls:
    """The certificate of a service, and the authorities of its clients. Raises SettingsError at first."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self.asks_clients = client_ca is not None
        self._files = Watched(
            "SINKSERVE_TLS_CERTIFICATE, SINKSERVE_TLS_KEY, SINKSERVE_TLS_CLIENT_CA",
            (certificate, key) if client_ca is None else (certificate, key, client_ca),
            _read,
        )
        warn_if_readable(key)

    def credentials(self) -> grpc.ServerCredentials:
        """For a gRPC listener."""
        given = self._files.value

        def fetch() -> Any:  # noqa: ANN401 - gRPC has no type for it
            """What a new connection gets: nothing new unless the files are."""
            nonlocal given
            if (found := self._files.value) is given:
                return None
            given = found
            return _configuration(found)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), fetch, require_client_authentication=self.asks_clients
        )

    def http_context(self) -> ssl.SSLContext:
        """For a connection over HTTP: no client needs a certificate there."""
        return self._files.value.context


def open_tls(settings: SharedSettings) -> Tls | None:
    """What the settings say; None: nothing is encrypted. Raises SettingsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def warn_if_readable(key: Path) -> None:
    """A private key is its owner's alone; whoever else can read it can be the service."""
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & _OTHERS:
        log.warning("tls.key_readable", file=str(key), mode=f"{mode:04o}", better="0600, or 0400")


def _configuration(files: _Files) -> Any:  # noqa: ANN401 - gRPC has no type for it
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)


def _read(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> _Files:
    """Raises ValueError for what gRPC would take, and then end each connection for."""
    try:
        context = _context(key + b"\n" + certificate)
        if client_ca is not None:
            ssl.create_default_context(cadata=client_ca.decode())
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise ValueError(f"a certificate and its key, or an authority, cannot be used: {error}") from None
    return _Files(certificate, key, client_ca, context)


def _context(both: bytes) -> ssl.SSLContext:
    """Of a key and its certificate. The library takes files alone: one in memory, since theirs may be half changed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with os.fdopen(os.memfd_create("tls"), "wb") as file:
        file.write(both)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
