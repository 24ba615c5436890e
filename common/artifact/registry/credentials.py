"""Who we are to a registry: from settings, else from Docker's configuration, where `docker login` leaves it.

That is `config.json` in DOCKER_CONFIG or ~/.docker; its credential helpers are asked as Docker asks them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.artifact.errors import RegistryRefused
from common.artifact.registry.settings import RegistrySettings

_HELPER_S = 30.0
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers call the user of an identity token
_HUB = {"registry-1.docker.io": "index.docker.io"}  # Docker's own is in its configuration by another name


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a token with which the registry's authority gives others."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header; empty where there is no password."""
        if not self.username or self.identity_token:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


NOBODY = Credentials()


def credentials_for(host: str, settings: RegistrySettings) -> Credentials:
    """Those for a registry at HOST or HOST:PORT; raises RegistryRefused for a configuration that cannot be read."""
    if settings.username:
        return Credentials(settings.username, settings.password.get_secret_value())
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_bytes())
        return _configured(config, _HUB.get(host, host))
    except FileNotFoundError:
        return NOBODY
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{path} cannot be read as Docker's configuration: {type(error).__name__}"
        raise RegistryRefused(what, hint="DOCKER_CONFIG names another folder") from None


def _configured(config: Mapping[str, Any], host: str) -> Credentials:
    entries: Mapping[str, Mapping[str, str]] = config.get("auths", {})
    name = next((each for each in entries if _host(each) == host), host)
    if helper := config.get("credHelpers", {}).get(host) or config.get("credsStore"):
        return _ask(helper, name)
    found = entries.get(name, {})
    username, password = found.get("username", ""), found.get("password", "")
    if found.get("auth"):
        username, _, password = base64.b64decode(found["auth"], validate=True).decode().partition(":")
    return Credentials(username, password, found.get("identitytoken", ""))


def _host(name: str) -> str:
    """Entries are hosts, or URLs as of old."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def _ask(helper: str, name: str) -> Credentials:
    program = f"docker-credential-{helper}"
    if os.sep in helper:
        raise ValueError(helper)
    try:
        ran = subprocess.run(  # noqa: S603 - the user's own configuration names it
            (program, "get"), input=name.encode(), capture_output=True, check=False, timeout=_HELPER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryRefused(f"Docker's configuration names {program}, which does not answer: {error}") from None
    if ran.returncode != 0:
        return NOBODY  # it has none for this registry
    given = json.loads(ran.stdout)
    if given["Username"] == _TOKEN_USER:
        return Credentials(identity_token=given["Secret"])
    return Credentials(given["Username"], given["Secret"])
