"""Where clients look for the services, from the environment: SINKSERVE_CLIENT_*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import grpc
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from common.settings import HostPort, HostPortOrNone, OptionalPath, Settings, SettingsError
from sinkserve.client.access.credentials import Token, tls_credentials, token_file


class ClientSettings(Settings):
    """Settings of clients."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_CLIENT_")

    builder: HostPort = "127.0.0.1:50061"
    """Address of the builder service."""
    builder_admin: HostPortOrNone = ""
    """Address of its administration; empty: 127.0.0.1:50062 if `builder` is the default, else none."""
    runtime: HostPort = "127.0.0.1:50071"
    """Address of the runtime service."""
    runtime_admin: HostPortOrNone = ""
    """Address of its administration; empty: 127.0.0.1:50072 if `runtime` is the default, else none."""
    tls: bool = False
    """Whether the services speak TLS; so they do where `ca` or `cert` is set."""
    ca: OptionalPath = None
    """PEM file of the authorities that signed their certificates; unset: those that gRPC brings."""
    cert: OptionalPath = None
    """PEM file of the client's own certificate."""
    key: OptionalPath = None
    """PEM file of its private key."""
    token: SecretStr = SecretStr("")
    """API key, or token of the identity provider, that goes with each call; others on the machine may see variables."""
    token_file: OptionalPath = None
    """File that has it, read for each call."""

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """These settings with those that a person gave; a token goes before a token that is set."""
        others = {"token": SecretStr(""), "token_file": None} if {"token", "token_file"} & set(options) else {}
        token = {"token": SecretStr(options["token"])} if "token" in options else {}
        return self.model_copy(update={**others, **options, **token})

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What connections are encrypted with; None: they are not. Raises SettingsError."""
        if not (self.tls or self.ca or self.cert or self.key):
            return None
        try:
            return tls_credentials(self.ca, self.cert, self.key)
        except (OSError, ValueError) as error:
            raise SettingsError(f"SINKSERVE_CLIENT_CA, _CERT, _KEY: {error}") from None

    def authorization(self) -> Token | None:
        """The token for each call; None: there is none. Raises SettingsError."""
        if self.token_file is None:
            secret = self.token.get_secret_value()
            return (lambda: secret) if secret else None
        try:
            return token_file(self.token_file)
        except OSError as error:
            raise SettingsError(f"SINKSERVE_CLIENT_TOKEN_FILE: {error}") from None

    def admin_of(self, service: Literal["builder", "runtime"]) -> str:
        """Where administration of a service is answered; empty if nothing says so."""
        if service == "builder":
            return self.builder_admin or ("127.0.0.1:50062" if self._is_default("builder") else "")
        return self.runtime_admin or ("127.0.0.1:50072" if self._is_default("runtime") else "")

    def _is_default(self, field: str) -> bool:
        return bool(getattr(self, field) == type(self).model_fields[field].default)
