"""Settings of the builder: SINKSERVE_BUILDER_*."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from builder_service.sources.uri import HUB, HUB_TIMEOUT_S, Remote, read_root
from common.loopback import is_loopback
from common.settings import CommaSeparated, HostPort, HostPortOrNone, OptionalPath, Settings


def _as_text(value: object) -> object:
    return tuple(map(str, value)) if isinstance(value, (tuple, list)) else value


def _check_roots(roots: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for root in roots or ():
        read_root(root)
    return roots


def _check_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc):
        raise ValueError("expected http(s)://HOST without credentials, such as https://huggingface.co")
    return url.rstrip("/")


class BuilderSettings(Settings):
    """The builder's settings."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_BUILDER_")

    listen: HostPort = "127.0.0.1:50061"
    """Where it serves gRPC."""
    admin_listen: HostPortOrNone = "127.0.0.1:50062"
    """Where it serves gRPC with administration: deleting engines and garbage, aliases, cancelling builds; or `none`."""
    metrics_listen: HostPortOrNone = "127.0.0.1:9461"
    """Where it serves Prometheus metrics and health over HTTP, HOST:PORT; or `none`."""
    principal_header: str = ""
    """Metadata key in which a trusted proxy names the caller, who owns what it builds; empty: no such proxy."""
    source_roots: Annotated[
        tuple[str, ...] | None, *CommaSeparated, BeforeValidator(_as_text), AfterValidator(_check_roots)
    ] = None
    """Folders and URL prefixes, separated by commas, under which checkpoints must lie once links are followed.

    A prefix is `hf://`, `hf://ORG/`, `hf://ORG/REPO` or `s3://BUCKET/PREFIX`, likewise with `gs` and `az`. Unset: the
    working directory, home, the Hugging Face cache and `hf://` if `listen` is a loopback address, else none.
    """
    hub_token: SecretStr | None = None
    """Token for private and gated repositories of the hub; unset: HF_TOKEN, else that of `hf auth login`."""
    hub_endpoint: Annotated[str, AfterValidator(_check_endpoint)] = ""
    """URL of the hub; empty: HF_ENDPOINT, else https://huggingface.co."""
    hub_timeout_s: Annotated[float, Field(gt=0)] = HUB_TIMEOUT_S
    """How long a download from the hub may bring nothing before the build fails, and is tried again."""
    hub_offline: bool = False
    """Take from the Hugging Face cache what was downloaded before, and never ask the hub; HF_HUB_OFFLINE does too."""
    signing_key: OptionalPath = None
    """PEM file of the private key that engines are signed with; unset: they are not signed."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    """Builds that run at once."""
    queue_limit: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Builds that may wait, in the whole queue, before another is refused."""
    build_timeout_s: Annotated[float, Field(gt=0)] = 86_400.0
    """How long one attempt at a build may take."""
    memory_limit_mib: Annotated[int, Field(ge=0)] = 0
    """Most memory of its own that the process of a build may have, in MiB; 0: as much as there is."""
    keep_builds_days: Annotated[float, Field(ge=0)] = 30.0
    """Days after which a build that has ended is deleted with its events; its engine stays. 0: never."""
    stop_grace_s: Annotated[float, Field(ge=0)] = 5.0
    """How long calls and builds may go on after the builder was asked to stop; then builds go back into the queue."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The source roots that are folders, with links resolved."""
        return tuple(root for root in self._all_roots if isinstance(root, Path))

    @property
    def remote(self) -> Remote:
        """What may be fetched from the hub and from object stores, and how."""
        return Remote(
            roots=tuple(root for root in self._all_roots if isinstance(root, str)),
            hub_endpoint=self.hub_endpoint,
            hub_token=self.hub_token,
            hub_offline=self.hub_offline,
            hub_timeout_s=self.hub_timeout_s,
        )

    @property
    def _all_roots(self) -> tuple[Path | str, ...]:
        if self.source_roots is not None:
            return tuple(map(read_root, self.source_roots))
        if not is_loopback(self.listen):
            return ()
        folders = (Path.cwd(), Path.home(), Path(os.environ.get("HF_HOME", "~/.cache/huggingface")))
        return (*(path.expanduser().resolve() for path in folders), f"{HUB}://")
