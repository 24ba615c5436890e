"""An engine that costs nothing, in a runtime of its own: what is left is what the service takes.

    python bench/engine/idle_engine.py HOME [slots]

Prints its address; ends when its input does. See `bench/service/throughput.py`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from common.catalog.catalog import Catalog
from common.db.schema import open_database
from common.engine.engine import Feed, FloatArray, SlotState
from common.settings import SharedSettings
from common.spec.published_engine import PublishedEngine
from common.store.blob_store import open_store
from common.telemetry import configure_logging
from common.window import Geometry, SessionWindow
from runtime_service.decoding.text import Text
from runtime_service.engines.loader import Loaded
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from tests.samples.vocabularies import byte_level
from tests.samples.whole_manifests import TEMPLATE, make_manifest

VOCABULARY = 450
LETTER = 300  # a token with text of its own


class IdleEngine:
    """Says LETTER for ever."""

    slot_multiple = 1
    draft_rows = 0
    vocabulary_size = VOCABULARY

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._logits = np.zeros((geometry.slots, VOCABULARY), np.float32)
        self._logits[:, LETTER] = 1.0

    def longest_step(self, position: int) -> int:  # noqa: ARG002 - the same everywhere
        return self.geometry.chunk

    def step(self, feeds: tuple[Feed, ...]) -> FloatArray:
        return self._logits[: sum(bool(feed.tokens) for feed in feeds)]

    def clear(self, slot: int) -> None: ...

    def export_slot(self, slot: int, position: int, window: SessionWindow) -> SlotState:  # noqa: ARG002 - all are alike
        empty = np.zeros((1, 1, 1, 1), np.float32)
        return SlotState(position, window, self.geometry, empty, empty)

    def import_slot(self, slot: int, state: SlotState) -> None: ...

    def close(self) -> None: ...


async def main(home: Path, slots: int) -> None:
    geometry = Geometry(sinks=4, window=1020, chunk=64, slots=slots)
    shared = SharedSettings.load({"home": home})
    publish(shared, geometry)

    def load(published: PublishedEngine) -> Loaded:
        return Loaded(IdleEngine(geometry), Text(byte_level(), published.manifest))

    settings = {
        "listen": "127.0.0.1:0",
        "admin_listen": "",
        "metrics_listen": "",
        "engines": ("idle",),
        "max_new_tokens_limit": 1 << 20,
    }
    runtime = await start_runtime(RuntimeSettings.load(settings), shared, load)
    sys.stdout.write(runtime.address + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runtime.stop()


def publish(shared: SharedSettings, geometry: Geometry) -> None:
    """An engine without files."""
    manifest = make_manifest(
        geometry, vocabulary=VOCABULARY, name="idle", template=TEMPLATE, end_token_ids=(1,), layers=2
    )
    database = open_database(shared.database)
    Catalog(database, open_store(shared.store)).publish(manifest, "bench")
    database.close()


if __name__ == "__main__":
    configure_logging(json=True)  # as a service: to standard error, since nobody reads on after the address
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32))
