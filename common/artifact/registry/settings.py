"""How registries are spoken to: SINKSERVE_REGISTRY_*."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from common.settings import OptionalPath, Settings
from common.timeouts import STORE_TIMEOUT_S


class RegistrySettings(Settings):
    """Settings of `engines export` and `engines import` where they speak to a registry."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_REGISTRY_")

    username: str = ""
    """Who moves engines to and from registries; empty: as Docker's config.json says, else nobody."""
    password: SecretStr = SecretStr("")
    """The password, or token, of `username`."""
    ca: OptionalPath = None
    """PEM file of the authorities that signed the registry's certificate; unset: those that the machine trusts."""
    plain_http: bool = False
    """Whether a registry that is not on the loopback may be spoken to without TLS; passwords go along."""
    timeout_s: Annotated[float, Field(gt=0)] = STORE_TIMEOUT_S
    """How long a registry may be silent, tries and all; then it counts as away."""
