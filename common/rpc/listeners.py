"""A service's two listeners: the public one answers what clients ask, the admin one also what changes things for all.

Whoever reaches the public address may talk and build; only who reaches the admin address may unload or delete what
others use. See docs/operate/trust.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from common.auth.principal import Role
from common.errors import PermissionDenied, Reason


class Access(Enum):
    """What a method is, which says who may call it."""

    READ = auto()
    """What whoever talks or builds may look at."""
    TALK = auto()
    BUILD = auto()
    CHANGE_OWN = auto()
    """Changes what the caller has built; for a caller whom nobody has asked for a name it is administration."""
    ADMINISTRATION = auto()
    """Answered at the admin listener alone."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """One of them is needed."""
        return _ROLES[self]


_ROLES = {
    Access.READ: (Role.TALK, Role.BUILD),
    Access.TALK: (Role.TALK,),
    Access.BUILD: (Role.BUILD,),
    Access.CHANGE_OWN: (Role.BUILD,),
    Access.ADMINISTRATION: (Role.ADMIN,),
}


@dataclass(frozen=True)
class AdminListener:
    """Where administration is answered: HOST:PORT or empty for nowhere, and the setting that says so."""

    listen: str
    setting: str

    def refusal(self, method: str) -> PermissionDenied:
        """The error of a call to SERVICE.METHOD at the public listener."""
        where = "a loopback address of the server's machine" if self.listen else "which is none here"
        what = (
            f"{method} is administration: call it at the admin listener, {self.setting} ({where}), not at this address"
        )
        return PermissionDenied(Reason.WRONG_LISTENER, what, method=method, setting=self.setting)
