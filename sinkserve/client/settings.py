"""Where clients look for the services, from the environment: SINKSERVE_CLIENT_*."""

from __future__ import annotations

from typing import Literal

from pydantic_settings import SettingsConfigDict

from common.settings import HostPort, HostPortOrNone, Settings


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

    def admin_of(self, service: Literal["builder", "runtime"]) -> str:
        """Where administration of a service is answered; empty if nothing says so."""
        if service == "builder":
            return self.builder_admin or ("127.0.0.1:50062" if self._is_default("builder") else "")
        return self.runtime_admin or ("127.0.0.1:50072" if self._is_default("runtime") else "")

    def _is_default(self, field: str) -> bool:
        return bool(getattr(self, field) == type(self).model_fields[field].default)
