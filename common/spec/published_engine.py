"""A published engine: its manifest, its digest, its aliases, and when it was published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from common.auth.principal import LOCAL_PRINCIPAL
from common.spec.manifest import Manifest


@dataclass(frozen=True)
class PublishedEngine:
    """One version of a name, as it was published, aliases that name it now, `latest` first, and the name's owner."""

    manifest: Manifest
    digest: str
    create_time: datetime
    aliases: tuple[str, ...] = ()
    owner: str = LOCAL_PRINCIPAL
    signature: str = ""
    """Who vouches for it, as `common.catalog.signature` writes it; empty: nobody."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Its version."""
        return self.manifest.version

    def shown_to(self, principal: str) -> str:
        """What somebody may be told of it who may not find it."""
        return self.reference if principal == self.owner else "an engine of another principal"

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return self.manifest.reference
