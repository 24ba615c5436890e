"""What there is to test on: a GPU with TensorRT, or at least with ONNX Runtime's CUDA provider, or fakes of them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnxruntime as ort
import pytest

from common.engine.tensorrt.machine import find_machine
from common.errors import FailedPrecondition
from common.spec.hardware import GpuMachine

FAKE = os.environ.get("SINKSERVE_TEST_FAKE_GPU") == "1"
"""The suite runs over `tests.fakes.gpu`: it then proves its own code, and nothing of a GPU."""
CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Here:
    """What was found. `missing` says in one sentence why there is no machine for TensorRT."""

    machine: GpuMachine | None
    missing: str
    cuda_provider: bool

    @property
    def nothing(self) -> str:
        """The sentence that the suite ends with at once, where nothing of it can run; else empty."""
        if self.machine is not None or self.cuda_provider:
            return ""
        return f"nothing can be tested here: {self.missing}, and onnxruntime {ort.__version__} has no {CUDA_PROVIDER}"


def look(patches: pytest.MonkeyPatch) -> Here:
    """Find the machine. Comes before what imports `tests.fakes.gpu`, which takes TensorRT's name if that is free."""
    if FAKE:
        from tests.fakes.gpu import install

        install(patches)
    cuda_provider = CUDA_PROVIDER in ort.get_available_providers()
    try:
        return Here(find_machine(), "", cuda_provider)
    except FailedPrecondition as error:
        return Here(None, str(error), cuda_provider)
