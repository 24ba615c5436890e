"""What TensorRT-RTX compiles where a plan is loaded, kept in a file beside the plan.

A plan of TensorRT-RTX is finished just in time for the GPU that loads it. What came of that can be kept: TensorRT-RTX
checks by itself that a kept cache is of its version, this GPU and this driver, and takes none that is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.store.atomic_file import write_whole

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as rtx

CACHE_PATH: Final = "just-in-time.cache"


class RuntimeCache:
    """The cache of one engine. A cache that cannot be read or written costs time at the next load and nothing else."""

    def __init__(self, engine: rtx.ICudaEngine, path: Path, write_log: Callable[[str], None]) -> None:
        self._path = path
        self._write_log = write_log
        self._saved = b""
        self._engine = engine
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self._load()
        if not self._config.set_runtime_cache(self._cache):
            write_log("TensorRT-RTX takes no runtime cache, so that every load compiles anew")

    def context(self) -> rtx.IExecutionContext | None:
        """A context that takes what is kept, and compiles the rest; None where there is no room for it."""
        return self._engine.create_execution_context(runtime_config=self._config)

    def save(self) -> None:
        """Write what was compiled since it was written last."""
        memory = self._cache.serialize()
        data = b"" if memory is None else bytes(memoryview(memory))
        if not data or data == self._saved:
            return
        try:
            write_whole(self._path, (data,), self._path.parent)
        except OSError as error:
            self._write_log(f"what TensorRT-RTX has compiled cannot be kept, so the next load compiles anew: {error}")
            return
        self._saved = data

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except OSError:  # most of the time there is none yet
            return
        if self._cache.deserialize(data):
            self._saved = data
        else:
            self._write_log(f"{self._path} is of another GPU, driver or version, and is written anew")
