"""What all attempts of a worker share, and how what they leave is cleaned up."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from builder_service.queue.changes import Changes
from builder_service.queue.queue import BuildQueue
from builder_service.sources.uri import Remote
from common.catalog.blob_claims import claim_holders
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.store.blob_store import BlobStore
from common.tracing.traces import NoTraces, Traces

HOLDER = "runs/"
"""How the names of holders of blobs begin that are attempts."""


@dataclass(frozen=True)
class WorkerContext:
    """What all attempts of a worker share."""

    database: Database
    store: BlobStore
    store_url: str
    store_timeout_s: float
    catalog: Catalog
    queue: BuildQueue
    changes: Changes
    work: Path
    source_roots: tuple[Path, ...]
    remote: Remote
    timeout_s: float
    memory_limit_mib: int
    traces: Traces = field(default_factory=NoTraces)

    def leftovers(self) -> set[str]:
        """Names of attempts that have left files or claims, or still run."""
        claims = {holder.removeprefix(HOLDER) for holder in claim_holders(self.database) if holder.startswith(HOLDER)}
        return claims | {folder.name for folder in self.work.iterdir()}

    def clean_up(self, run: str) -> None:
        """Remove what an attempt has left: its folder, its claims, and blobs that nothing else needs."""
        self.catalog.drop_claims(HOLDER + run)
        self.store.remove_abandoned()
        shutil.rmtree(self.work / run, ignore_errors=True)
