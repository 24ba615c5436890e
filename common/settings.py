"""How settings are read: defaults in the class, over them a YAML file, over that the environment.

One frozen object a service, read once before anything starts. Each default is written once, in its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from common.loopback import is_loopback
from common.timeouts import DATABASE_TIMEOUT_S, STORE_TIMEOUT_S
from common.yaml_text import read_yaml

SigningAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""With public keys: with any other, who can verify a token could make one."""


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


def _empty(value: object) -> object:
    return None if value == "" else value


OptionalPath = Annotated[Annotated[Path, AfterValidator(Path.expanduser)] | None, BeforeValidator(_empty)]
"""A path, or empty for none."""


def _check_jwks(where: str) -> str:
    """A file, or a URL whose answer nobody between can change; raises ValueError."""
    parts = urlsplit(where)
    if "://" not in where or (parts.scheme == "https" and parts.hostname and "@" not in parts.netloc):
        return where
    if parts.scheme == "http" and is_loopback(f"{parts.hostname}:0"):
        return where
    raise ValueError("it has to be a file, or an https:// URL without credentials; http:// only on a loopback address")


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
    traces_endpoint: Annotated[str, Field(pattern="^(https?://.+)?$")] = ""
    """OpenTelemetry collector that takes traces by OTLP over gRPC, such as http://127.0.0.1:4317; empty: none."""
    traces_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the traces that begin here which are kept; where a caller has a trace, the caller has decided."""
    tls_certificate: OptionalPath = None
    """PEM file of the certificate, and those between it and its authority; unset: nothing is encrypted."""
    tls_key: OptionalPath = None
    """PEM file of its private key."""
    tls_client_ca: OptionalPath = None
    """PEM file of authorities; a gRPC client then needs a certificate of theirs, which says who it is."""
    auth_anonymous: Literal["allow", "refuse", ""] = ""
    """Whether calls without credentials are answered; empty: only where nobody can be asked, on loopback addresses."""
    auth_keys: OptionalPath = None
    """File of API keys' hashes, as `sinkserve keys` writes it."""
    auth_jwks: Annotated[str, AfterValidator(_check_jwks)] = ""
    """Public keys of the identity provider that signs tokens (JWT): a JWKS file, or its https:// URL."""
    auth_issuer: str = ""
    """Issuer that tokens name."""
    auth_audience: Annotated[tuple[str, ...], *CommaSeparated] = ()
    """Audience that tokens are for, or several, separated by commas."""
    auth_algorithms: Annotated[tuple[SigningAlgorithm, ...], *CommaSeparated, Field(min_length=1)] = ("RS256", "ES256")
    """Algorithms that tokens may be signed with: RS, PS or ES and 256, 384 or 512, or EdDSA."""
    auth_principal_claim: Annotated[str, Field(min_length=1)] = "sub"
    """Claim of a token that names the caller."""
    auth_clock_skew_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clocks of issuer and server may be apart."""
    auth_jwks_refresh_s: Annotated[float, Field(ge=10)] = 300.0
    """How old the keys of a URL may be before they are fetched again."""
    auth_policy: OptionalPath = None
    """YAML file that says who may do what; unset: who is known may talk and build, with engines of their own."""

    @model_validator(mode="after")
    def _are_whole(self) -> Self:
        """Some settings need others."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY belong together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("TLS_CLIENT_CA needs TLS_CERTIFICATE and TLS_KEY")
        if self.auth_jwks and not (self.auth_issuer and self.auth_audience):
            raise ValueError("AUTH_JWKS needs AUTH_ISSUER and AUTH_AUDIENCE: a token for others is no token for this")
        return self

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
        data = read_yaml(path.read_text()) or {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"--config {path}: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(key, {}), dict) for key in ("builder", "runtime")):
        raise SettingsError(f"--config {path}: expected a mapping with sections `builder` and `runtime`")
    sections = {key: data.pop(key, {}) for key in ("builder", "runtime")}
    return {"shared": data, **sections}
