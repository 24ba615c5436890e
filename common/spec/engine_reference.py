"""Engine references, as people type them: NAME, NAME:ALIAS, NAME@VERSION, NAME@sha256:HEX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.digest import is_digest
from common.errors import InvalidArgument, Reason
from common.spec.model_spec import NAME_PATTERN

LATEST = "latest"
_FORMS = "NAME, NAME:ALIAS, NAME@VERSION or NAME@sha256:HEX"
_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class EngineReference:
    """A parsed reference: a name, and one of alias, version and digest."""

    name: str
    alias: str | None = None
    version: int | None = None
    digest: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether it names the same version for ever."""
        return self.alias is None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}:{self.alias}"
        return f"{self.name}@{self.version if self.digest is None else self.digest}"


def parse_reference(text: str, field: str = "reference") -> EngineReference:
    """Parse a reference; NAME alone means NAME:latest. Raises InvalidArgument (INVALID_FIELD) at `field`."""
    name, mark, rest = _split(text)
    if _NAME.fullmatch(name):
        if mark == ":" and is_alias(rest):
            return EngineReference(name, alias=rest)
        if mark == "@" and _VERSION.fullmatch(rest):
            return EngineReference(name, version=int(rest))
        if mark == "@" and is_digest(rest):
            return EngineReference(name, digest=rest)
    shown = text if len(text) <= 100 else text[:100] + "..."
    raise InvalidArgument(
        Reason.INVALID_FIELD, f"{field}: {shown!r} is not an engine reference: {_FORMS}", field=field, value=shown
    )


def is_alias(text: str) -> bool:
    """Whether `text` can be an alias: spelled as a name is, and not all digits, which would look like a version."""
    return _NAME.fullmatch(text) is not None and not text.isdigit()


def _split(text: str) -> tuple[str, str, str]:
    at = min((place for place in (text.find("@"), text.find(":")) if place >= 0), default=-1)
    return (text, ":", LATEST) if at < 0 else (text[:at], text[at], text[at + 1 :])
