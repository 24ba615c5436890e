"""What an artifact of a registry is called: `oci://HOST[:PORT]/REPOSITORY:TAG`, or `@sha256:HEX` of one that is there.

Source: opencontainers/distribution-spec, 1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from common.artifact.errors import RegistryNameError
from common.digest import is_digest

SCHEME = "oci://"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    r"oci://(?P<host>(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_HUB, _HUB_ANSWERS_AT = "docker.io", "registry-1.docker.io"


@dataclass(frozen=True)
class RegistryName:
    """One artifact: the registry's HOST or HOST:PORT, the repository in it, and a tag, a digest, or nothing yet."""

    host: str
    repository: str
    reference: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises RegistryNameError."""
        found = _NAME.fullmatch(text)
        if found is None:
            what = f"{text!a} names no artifact of a registry: that is oci://HOST[:PORT]/REPOSITORY:TAG"
            raise RegistryNameError(what, hint="such as oci://registry.example.com/team/demo:3, in lower case")
        host = _HUB_ANSWERS_AT if found["host"] == _HUB else found["host"]
        return cls(host, found["repository"], found["tag"] or found["digest"] or "")

    @property
    def is_pinned(self) -> bool:
        """Whether it is named by a digest."""
        return is_digest(self.reference)

    def __str__(self) -> str:
        mark = "@" if self.is_pinned else ":"
        return f"{SCHEME}{self.host}/{self.repository}{mark if self.reference else ''}{self.reference}"
