"""Enums, shapes and interfaces of the fake TensorRT."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Self

import ml_dtypes
import numpy as np

__version__ = "11.4.0.106"


class DataType(Enum):
    FLOAT = np.dtype(np.float32)
    HALF = np.dtype(np.float16)
    BF16 = np.dtype(ml_dtypes.bfloat16)
    INT64 = np.dtype(np.int64)


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(Enum):
    WORKSPACE = 0


class BuilderFlag(Enum):
    TF32 = 7
    VERSION_COMPATIBLE = 13
    STRICT_NANS = 20


class HardwareCompatibilityLevel(Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class ProfilingVerbosity(Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(Enum):
    ONELINE = 0
    JSON = 1


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        pass

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class Dims(tuple[int, ...]):
    __slots__ = ()

    def __new__(cls, shape: tuple[int, ...] = ()) -> Self:
        return super().__new__(cls, shape)


class IHostMemory(bytes):
    __slots__ = ()
