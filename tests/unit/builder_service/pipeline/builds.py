"""Builds of a tiny checkpoint, without processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder_service.pipeline.messages import Order
from builder_service.pipeline.pipeline import run_build
from common.spec.manifest import Manifest
from common.spec.model_spec import CacheGeometry, ModelSpec, Source
from common.store.blob_store import BlobStore, open_store
from tests.unit.builder_service.pipeline.listener import Listener

CACHE = CacheGeometry(sink_tokens=4, window_tokens=12, chunk_tokens=4, max_slots=3)


def order(folder: Path, **changes: Any) -> Order:
    home = folder.parent
    (home / "work").mkdir(exist_ok=True)
    spec = ModelSpec(name="demo", source=Source(uri=str(folder)), cache=CACHE)
    return Order(
        spec=spec.model_copy(update=changes), work=home / "work", source_roots=(home,), store_url=str(home / "store")
    )


def store(folder: Path) -> BlobStore:
    return open_store(str(folder.parent / "store"))


def built(folder: Path, parent: Listener | None = None, **changes: Any) -> Manifest:
    manifest = run_build(order(folder, **changes), parent or Listener())
    assert manifest is not None
    return manifest


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
