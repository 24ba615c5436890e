"""Settings of `sinkserve web`: SINKSERVE_WEB_*. Where the services are, SINKSERVE_CLIENT_* says, as for any client."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.loopback import is_loopback
from common.settings import CommaSeparated, HostPort, HostPortOrNone, OptionalPath, Settings

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class WebSettings(Settings):
    """Settings of the door for HTTP."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_WEB_")

    listen: HostPort = "127.0.0.1:8080"
    """Address to listen at; port 0 takes a free one."""
    metrics_listen: HostPortOrNone = ""
    """Where it serves Prometheus metrics over HTTP, HOST:PORT; or `none`."""
    hosts: Annotated[tuple[str, ...], *CommaSeparated] = ()
    """Names that requests may have in `Host`, without port, separated by commas, `*.example.com` for all below one.
    Empty: on a loopback address localhost, 127.0.0.1 and [::1], so that no foreign page reaches it by a name of its
    own; elsewhere any."""
    anonymous: Literal["allow", "refuse", ""] = ""
    """Whether requests without a key go on to the services, as nobody's; empty: only on a loopback address."""
    admin: Literal["allow", "refuse", ""] = ""
    """Whether the page offers administration, to those whom the services let; where their admin addresses ask nobody,
    that is whoever reaches this one. Empty: only on a loopback address."""
    tls_certificate: OptionalPath = None
    """PEM file of the certificate, and those between it and its authority; unset: nothing is encrypted."""
    tls_key: OptionalPath = None
    """PEM file of its private key."""
    engine: str = ""
    """Engine reference of requests that name no model; empty: they are refused."""
    keep_days: Annotated[float, Field(ge=0)] = 30.0
    """Sessions that OpenAI's clients began are deleted after so many days without a turn; 0: never."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 << 20)] = 8 << 20
    """Largest body of a request."""
    max_callers: Annotated[int, Field(ge=1)] = 256
    """Callers whose connections to the services are kept between requests."""
    grace_s: Annotated[float, Field(ge=0)] = 30.0
    """How long running requests may go on once the process is asked to stop."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY belong together")
        return self

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names in `Host`, `*` for any."""
        return self.hosts or (_LOCAL_HOSTS if is_loopback(self.listen) else ("*",))

    @property
    def takes_anonymous(self) -> bool:
        """Whether requests without a key go on."""
        return self.anonymous == "allow" or (self.anonymous == "" and is_loopback(self.listen))

    @property
    def offers_admin(self) -> bool:
        """Whether the page offers administration."""
        return self.admin == "allow" or (self.admin == "" and is_loopback(self.listen))
