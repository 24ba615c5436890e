"""Where clients look for the services, from the environment: SINKSERVE_CLIENT_BUILDER, SINKSERVE_CLIENT_RUNTIME."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from common.settings import HostPort, Settings


class ClientSettings(Settings):
    """Settings of clients."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_CLIENT_")

    builder: HostPort = "127.0.0.1:50061"
    """Address of the builder service."""
    runtime: HostPort = "127.0.0.1:50071"
    """Address of the runtime service."""
