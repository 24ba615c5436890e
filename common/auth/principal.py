"""Who calls, as far as the rest of the house needs to know: a name, roles, and which engines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from common.auth.quotas import UNBOUNDED, Quotas

LOCAL_PRINCIPAL = "local"
"""Whoever calls without credentials, where that is allowed; owner of all that was made so."""
LONGEST_NAME = 255


class Role(StrEnum):
    """What a principal may do."""

    TALK = "talk"
    """Sessions: make them, talk in them, see and delete those of one's own."""
    BUILD = "build"
    """Builds and engines: make them, and change those of one's own."""
    ADMIN = "admin"
    """All that, see what others have, and change what all use."""


@dataclass(frozen=True)
class EngineScope:
    """Engines that somebody finds: those of an owner, and those of shared names. Of no owner: all."""

    owner: str | None = None
    shared: tuple[str, ...] = ()
    """Names, or beginnings of names that end in `*`."""

    def covers(self, name: str, owner: str) -> bool:
        """Whether an engine name, which belongs to `owner`, is among them."""
        if self.owner in (None, owner):
            return True
        return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in self.shared)


EVERY_ENGINE = EngineScope()


@dataclass(frozen=True)
class Principal:
    """Somebody who calls. Not `authenticated`: anybody who can reach the address."""

    name: str
    roles: frozenset[Role] = frozenset()
    engines: tuple[str, ...] = ()
    """Engines of others that it may use: names, or beginnings of names that end in `*`."""
    authenticated: bool = True
    quotas: Quotas = UNBOUNDED

    def has(self, role: Role) -> bool:
        """Whether it may do what needs a role; an admin may do all."""
        return role in self.roles or Role.ADMIN in self.roles

    @property
    def owner(self) -> str | None:
        """Whose things it finds: its own; None: everybody's."""
        return None if self.authenticated and Role.ADMIN in self.roles else self.name

    @property
    def own_engines(self) -> EngineScope:
        """Engines that it may change."""
        return EngineScope(self.owner)

    @property
    def usable_engines(self) -> EngineScope:
        """Engines that it may use."""
        return EngineScope(self.owner, self.engines)
