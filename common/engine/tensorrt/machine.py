"""Detects the GPU of this machine and its TensorRT or TensorRT-RTX; imports them and CUDA only when called."""

from __future__ import annotations

import platform
import re

from common.engine.tensorrt.library import TENSORRT, Library, missing, use
from common.spec.hardware import GpuMachine


def find_machine(library: Library = TENSORRT) -> GpuMachine:
    """The GPU and the versions here; raises FailedPrecondition (ENGINE_INCOMPATIBLE) naming what is missing."""
    use(library)
    try:
        from common.engine.cuda_device import find_gpu  # noqa: PLC0415 - needs packages of GPU machines
        from common.engine.tensorrt.plan import tensorrt_version  # noqa: PLC0415 - likewise
    except (ImportError, OSError) as error:  # a package, or a library that it loads
        raise missing(library, error) from None
    gpu = find_gpu()
    return GpuMachine(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt_version=".".join(re.findall(r"\d+", tensorrt_version())[:4]),
        cuda_version=gpu.runtime_cuda_version,
        cuda_driver_version=gpu.driver_cuda_version,
        platform=this_platform(),
        free_bytes=gpu.free_bytes,
        total_bytes=gpu.total_bytes,
    )


def this_platform() -> str:
    """System and processor, such as `linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}".lower()
