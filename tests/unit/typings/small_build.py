"""A build and a step in a few lines, spelt right. The conformance test misspells it; nothing runs it."""

from __future__ import annotations

import tensorrt as trt
from cuda.bindings import runtime as cudart


class Progress(trt.IProgressMonitor):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        del phase_name, parent_phase, num_steps

    def step_complete(self, phase_name: str, step: int) -> bool:
        return bool(phase_name)


def build(path: str) -> bytes:
    logger = trt.Logger(min_severity=trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise ValueError(parser.get_error(0).node_name())
    profile = builder.create_optimization_profile()
    profile.set_shape("tokens", min=(1, 1), opt=trt.Dims((1, 8)), max=(1, 8))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)
    config.progress_monitor = Progress()
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ValueError(path)
    return bytes(memoryview(serialized))


def step(context: trt.IExecutionContext, length: int) -> bool:
    error, address = cudart.cudaMalloc(length)
    if error != cudart.cudaError_t.cudaSuccess:
        raise MemoryError(length)
    _, stream = cudart.cudaStreamCreate()
    cudart.cudaMemsetAsync(address, 0, length, stream)
    return context.set_tensor_address("tokens", address) and context.execute_async_v3(int(stream))
