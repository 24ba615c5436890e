"""From a published engine to one in memory: refuses what this machine cannot run before reading its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from common.digest import digest_file, digest_hex
from common.engine import Engine
from common.errors import Reason, ResourceExhausted
from common.manifest import GRAPH_PATH, TOKENIZER_PATH, EngineFile, Manifest
from common.onnxruntime_engine import OnnxRuntimeEngine
from common.published_engine import PublishedEngine
from common.store import BlobStore
from runtime_service.text import Text

_CGROUP = Path("/sys/fs/cgroup")

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """An engine and its text."""

    engine: Engine
    text: Text


class Loader:
    """Loads engines from a store. Files lie in `folder` while in use and after: they are checked at every load."""

    def __init__(self, store: BlobStore, folder: Path, threads: int) -> None:
        self._store = store
        self._folder = folder
        self._threads = threads

    def load(self, published: PublishedEngine) -> Loaded:
        """Load an engine; blocks, and is called by one thread at a time.

        Raises FailedPrecondition (ENGINE_INCOMPATIBLE) for a graph that cannot be loaded here, ResourceExhausted
        (OUT_OF_MEMORY) if it does not fit, DataLoss (STORE_CORRUPT) for files that are not what they were.
        """
        manifest = published.manifest
        check_memory(manifest, available_memory_bytes())
        folder = self._place(published)
        engine = OnnxRuntimeEngine(
            folder / GRAPH_PATH,
            manifest.architecture,
            manifest.rope,
            manifest.geometry,
            threads=self._threads,
        )
        tokenizer = folder / TOKENIZER_PATH
        return Loaded(engine, Text(tokenizer.read_bytes() if tokenizer.exists() else None, manifest))

    def _place(self, published: PublishedEngine) -> Path:
        folder = self._folder / digest_hex(published.digest)
        for file in published.manifest.files:
            path = folder / file.path
            if not _is_right(path, file):
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._store.place(file.digest, path)
        return folder


def check_memory(manifest: Manifest, available_bytes: int) -> None:
    """Raise ResourceExhausted (OUT_OF_MEMORY) unless weights and cache fit."""
    needed = manifest.weight_bytes + manifest.kv_bytes_per_slot * manifest.geometry.slots
    if needed > available_bytes:
        raise ResourceExhausted(
            Reason.OUT_OF_MEMORY,
            f"{manifest.reference} needs about {needed >> 20} MiB ({manifest.weight_bytes >> 20} of weights, "
            f"{manifest.geometry.slots} slots of {manifest.kv_bytes_per_slot >> 20}), and "
            f"{available_bytes >> 20} MiB are available; unload another, or build it with fewer slots",
            needed_bytes=needed,
            available_bytes=available_bytes,
        )


def available_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that this process may still take: the machine's, or what its control group leaves."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available
    return min(available, int(limit) - int(used)) if limit.isdigit() else available


def _is_right(path: Path, file: EngineFile) -> bool:
    return path.exists() and path.stat().st_size == file.size_bytes and digest_file(path) == file.digest
