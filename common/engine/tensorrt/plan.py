"""A compiled engine of TensorRT or TensorRT-RTX, loaded: takes the addresses of its tensors, and runs.

A plan has two profiles: one token for any number of slots, and a chunk. Each has a context of its own, so that going
from one to the other costs nothing. Caches are written in place: the output of each shares its input's memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorrt as trt

from common.engine.tensorrt.library import TENSORRT, Library
from common.engine.tensorrt.log import TensorRtLog
from common.engine.tensorrt.runtime_cache import CACHE_PATH, RuntimeCache
from common.errors import FailedPrecondition, Internal, Reason

DECODE, PREFILL = 0, 1
"""Profiles."""
OUT = "_out"
"""Behind the name of a cache: the same, updated."""

_CACHE_TYPES: Mapping[trt.DataType, np.dtype[Any]] = {
    trt.DataType.FLOAT: np.dtype(np.float32),
    trt.DataType.HALF: np.dtype(np.float16),
    trt.DataType.BF16: np.dtype(np.uint16),  # numpy has no such type: its bits
}

Shape = tuple[int, ...]


def tensorrt_version() -> str:
    """Version of the library in use, four numbers."""
    return str(trt.__version__)


class TensorRtPlan:
    """Raises FailedPrecondition (ENGINE_INCOMPATIBLE) with the library's words for a plan that it does not take, or
    whose caches are not written in place. The library is the one in `use`.
    """

    def __init__(self, path: Path, stream: int, write_log: Callable[[str], None], library: Library = TENSORRT) -> None:
        self._stream = stream
        self._library = library
        self._log = TensorRtLog(write_log, library.title)
        self._runtime = trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = True  # of plans for later versions; digests vouch for it
        self._engine = self._deserialized(path)
        self._compiled = self._runtime_cache(path, write_log)
        self._contexts = [self._context(profile) for profile in (DECODE, PREFILL)]
        self._keep_compiled()
        self._shapes: list[dict[str, Shape]] = [{} for _ in self._contexts]
        self._addresses: list[dict[str, int]] = [{} for _ in self._contexts]
        self._check_in_place()

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, caches among them."""
        return tuple(name for name in self._names() if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)

    @cached_property
    def caches(self) -> dict[str, Shape]:
        """Caches and their shapes, [-1, kv_heads, rows, head_dim]."""
        return {name: tuple(self._engine.get_tensor_shape(name)) for name in self.inputs if "_cache_" in name}

    @cached_property
    def cache_type(self) -> np.dtype[Any]:
        """Type of the numbers in the caches; uint16 stands for bfloat16."""
        (dtype,) = {self._engine.get_tensor_dtype(name) for name in self.caches}
        return _CACHE_TYPES[dtype]

    def report(self) -> str:
        """What the inspector says of its layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return inspector.get_engine_information(trt.LayerInformationFormat.JSON) if inspector is not None else "{}"

    def run(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Put one step on the stream: inputs of `shapes`, all tensors at `addresses`. Raises Internal."""
        self._set_shapes(profile, shapes)
        self._set_addresses(profile, addresses)
        self._check(self._contexts[profile].execute_async_v3(self._stream), "the step")

    def close(self) -> None:
        """Free device memory: contexts first, then what they were made from."""
        self._keep_compiled()
        self._contexts.clear()
        self._compiled = None
        del self._engine, self._runtime

    def _runtime_cache(self, path: Path, write_log: Callable[[str], None]) -> RuntimeCache | None:
        if not self._library.just_in_time:
            return None
        return RuntimeCache(cast("Any", self._engine), path.with_name(CACHE_PATH), write_log)

    def _keep_compiled(self) -> None:
        if self._compiled is not None:
            self._compiled.save()

    def _deserialized(self, path: Path) -> trt.ICudaEngine:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._incompatible(self._words("does not take the plan"))
        return engine

    def _context(self, profile: int) -> trt.IExecutionContext:
        context = self._new_context()
        if context is None:
            raise self._incompatible(self._words("has no room to run the plan"))
        self._check(context.set_optimization_profile_async(profile, self._stream), f"profile {profile}")
        return context

    def _new_context(self) -> trt.IExecutionContext | None:
        if self._compiled is None:
            return self._engine.create_execution_context()
        return cast("trt.IExecutionContext | None", self._compiled.context())

    def _names(self) -> Iterator[str]:
        return (self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))

    def _check_in_place(self) -> None:
        for name in self.caches:
            if (alias := self._engine.get_aliased_input_tensor(f"{name}{OUT}")) != name:
                raise self._incompatible(f"{name}{OUT} is not written over {name} but over {alias or 'nothing'}")

    def _set_shapes(self, profile: int, shapes: Mapping[str, Shape]) -> None:
        """Tell the context what it does not know yet."""
        context, known = self._contexts[profile], self._shapes[profile]
        changed = {name: shape for name, shape in shapes.items() if known.get(name) != shape}
        for name, shape in changed.items():
            self._check(context.set_input_shape(name, shape), f"{name} of {shape} in profile {profile}")
        known |= changed
        if changed and (missing := context.infer_shapes()):
            raise Internal(Reason.INTERNAL, f"{self._library.title} does not know the shapes of {', '.join(missing)}")

    def _set_addresses(self, profile: int, addresses: Mapping[str, int]) -> None:
        """Tell the context what it does not know yet."""
        context, known = self._contexts[profile], self._addresses[profile]
        for name, address in addresses.items():
            if known.get(name) != address:
                self._check(context.set_tensor_address(name, address), f"the address of {name}")
                known[name] = address

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise Internal(Reason.INTERNAL, self._words(f"refused {what}"))

    def _words(self, what: str) -> str:
        return f"{self._library.title} {tensorrt_version()} {what}: {self._log.last_words}"

    @staticmethod
    def _incompatible(message: str) -> FailedPrecondition:
        return FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message)
