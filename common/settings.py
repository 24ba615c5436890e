"""How settings are read: defaults in the class, over them a YAML file, over that the environment.

One frozen object a service, read once before anything starts. Each default is written once, in its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from common.timeouts import DATABASE_TIMEOUT_S, STORE_TIMEOUT_S


class SettingsError(Exception):
    """A setting that cannot be used; the message names its key. Raised before anything starts."""


def host_port(value: str) -> str:
    """Check HOST:PORT; raises ValueError."""
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        raise ValueError(f"{value!r} is not HOST:PORT, such as 127.0.0.1:50051")
    return value


HostPort = Annotated[str, AfterValidator(host_port)]


def host_port_or_none(value: str) -> str:
    """Check HOST:PORT, or `none` or nothing, which are empty then; raises ValueError."""
    return "" if value in ("", "none") else host_port(value)


HostPortOrNone = Annotated[str, AfterValidator(host_port_or_none)]
"""HOST:PORT, or empty for none."""


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = (NoDecode, BeforeValidator(_split))
"""Annotations of a tuple that the environment gives as one string: ``Annotated[tuple[str, ...], *CommaSeparated]``."""


class Settings(BaseSettings):
    """Base of every settings object. The environment overrides values from `file`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @classmethod
    def load(cls, file: dict[str, Any] | None = None) -> Self:
        """Read the environment over `file`; raises SettingsError naming key and cause."""
        try:
            return cls(**{**(file or {}), **EnvSettingsSource(cls)()})
        except ValidationError as error:
            raise SettingsError(cls._explain(error)) from None

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        prefix = cls.model_config.get("env_prefix", "")
        return "; ".join(
            f"{prefix}{'.'.join(map(str, item['loc']))}".upper() + f": {item['msg']}" for item in error.errors()
        )


class SharedSettings(Settings):
    """Settings that both services use."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_")

    home: Annotated[Path, AfterValidator(Path.expanduser)] = Field(default_factory=lambda: Path.home() / ".sinkserve")
    """Folder of all state: database, store, caches."""
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL; empty: SQLite in `home`."""
    store_url: str = Field(default="", repr=False)
    """Where engines are stored: a folder, or an object-store URL; empty: a folder in `home`."""
    database_timeout_s: Annotated[float, Field(gt=0)] = DATABASE_TIMEOUT_S
    """How long a database server may take for an answer; then it counts as away. A file is waited for longer."""
    store_timeout_s: Annotated[float, Field(gt=0)] = STORE_TIMEOUT_S
    """How long an object store may be silent; then it counts as away."""
    log_format: Literal["text", "json"] = "text"
    """How logs are written to standard error: for people, or as a JSON object a line."""

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'sinkserve.db'}"

    @property
    def store(self) -> str:
        """URL of the store."""
        return self.store_url or (self.home.resolve() / "store").as_uri()


def read_config(path: Path | None) -> dict[str, dict[str, Any]]:
    """Sections `shared`, `builder` and `runtime` of a YAML file; raises SettingsError for any other key."""
    if path is None:
        return {"shared": {}, "builder": {}, "runtime": {}}
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--config {path}: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(key, {}), dict) for key in ("builder", "runtime")):
        raise SettingsError(f"--config {path}: expected a mapping with sections `builder` and `runtime`")
    sections = {key: data.pop(key, {}) for key in ("builder", "runtime")}
    return {"shared": data, **sections}
