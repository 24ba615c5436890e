"""Detects the GPU and the TensorRT of this machine; imports TensorRT and CUDA only when called."""

from __future__ import annotations

import platform
import re

from common.errors import FailedPrecondition, Reason
from common.spec.hardware import GpuMachine


def find_machine() -> GpuMachine:
    """The GPU and the versions here; raises FailedPrecondition (ENGINE_INCOMPATIBLE) naming what is missing."""
    try:
        from common.engine.cuda_device import find_gpu  # noqa: PLC0415 - needs packages of GPU machines
        from common.engine.tensorrt_plan import tensorrt_version  # noqa: PLC0415 - likewise
    except (ImportError, OSError) as error:  # a package, or a library that it loads
        message = f"target tensorrt needs TensorRT and CUDA's bindings, pip install 'sinkserve[tensorrt]': {error}"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message) from None
    gpu = find_gpu()
    return GpuMachine(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt_version=".".join(re.findall(r"\d+", tensorrt_version())[:4]),
        cuda_version=gpu.runtime_cuda_version,
        cuda_driver_version=gpu.driver_cuda_version,
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        free_bytes=gpu.free_bytes,
        total_bytes=gpu.total_bytes,
    )
