"""A published engine: its manifest, its digest, its aliases, and when it was published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from common.spec.manifest import Manifest


@dataclass(frozen=True)
class PublishedEngine:
    """One version of a name, as it was published, and the aliases that name it now, `latest` first."""

    manifest: Manifest
    digest: str
    create_time: datetime
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Its version."""
        return self.manifest.version

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return self.manifest.reference
