"""TensorRT's timing caches in the object store: its measurements of kernels, so that later builds need not repeat them.

There is one for each GPU architecture and version of TensorRT. The last writer wins: a lost entry costs time, never
correctness. A digest precedes the bytes, so a partial cache is not used.
"""

from __future__ import annotations

import hashlib

import obstore

from common.store.object_store import open_object_store
from common.timeouts import STORE_TIMEOUT_S

_DIGEST_BYTES = hashlib.sha256().digest_size


class TimingCaches:
    """Timing caches in a store; calls block, and many processes may use one store."""

    def __init__(self, store_url: str, patience_s: float = STORE_TIMEOUT_S) -> None:
        """`store_url` is a folder, a file:// URL or an object-store URL; raises what `open_object_store` does."""
        self._store = open_object_store(store_url, patience_s)

    def load(self, architecture: str, tensorrt_version: str) -> bytes:
        """The cache for `sm_90` and `11.4.0.106`; empty if there is none, or a damaged one."""
        try:
            stored = bytes(obstore.get(self._store, _key(architecture, tensorrt_version)).bytes())
        except FileNotFoundError:
            return b""
        digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == digest else b""

    def save(self, architecture: str, tensorrt_version: str, data: bytes) -> None:
        """Keep a cache instead of the one that is there."""
        obstore.put(self._store, _key(architecture, tensorrt_version), hashlib.sha256(data).digest() + data)


def _key(architecture: str, tensorrt_version: str) -> str:
    return f"timing-caches/{architecture}-{tensorrt_version}.cache"
