"""A model in TensorRT-LLM's `LLM`: the only file that imports the package, when a model is loaded and not before.

Names are those of tests/unittest/api_stability/references(_committed) in NVIDIA/TensorRT-LLM and of the reference pages
of 1.3.0rc27. Versions up to 1.2 take penalties and seeds and ignore them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition, Reason

QUANTIZATION_PATH = "hf_quant_config.json"  # where ModelOpt says what it did to a checkpoint


@dataclass(frozen=True)
class LlmArguments:
    """A model and how `version` of TensorRT-LLM, and no other, holds it; `dtype` is its name for it.

    `max_tokens` bounds prompt and reply together. TensorRT-LLM finds in the folder how the weights are
    quantized; `quantization` is what it has to find, empty: any.
    """

    model: Path
    version: str
    dtype: str
    max_slots: int
    max_tokens: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    quantization: str = ""
    kv_memory_fraction: float = 0.9

    def keywords(self) -> dict[str, Any]:
        """Arguments of `tensorrt_llm.LLM` but for its `kv_cache_config`."""
        return {
            "model": str(self.model),
            "skip_tokenizer_init": True,
            "dtype": self.dtype,
            "tensor_parallel_size": self.tensor_parallel,
            "pipeline_parallel_size": self.pipeline_parallel,
            "max_batch_size": self.max_slots,
            "max_seq_len": self.max_tokens,
            "enable_chunked_prefill": True,  # else a prompt has to fit max_num_tokens
        }


def open_llm(arguments: LlmArguments) -> tuple[Any, Any]:
    """The package, and its `LLM` of the model; blocks.

    Raises FailedPrecondition (ENGINE_INCOMPATIBLE) without the package in its version, for weights that are not
    quantized as they have to be, and for whatever TensorRT-LLM cannot load.
    """
    package = installed_package(arguments.version)
    check_quantization(arguments)
    try:
        cache = package.llmapi.KvCacheConfig(
            enable_block_reuse=True, free_gpu_memory_fraction=arguments.kv_memory_fraction
        )
        return package, package.LLM(**arguments.keywords(), kv_cache_config=cache)
    except Exception as error:  # torch, MPI, pydantic and TensorRT-LLM have no class in common
        message = f"TensorRT-LLM {arguments.version} cannot load the model: {error}"
        raise _incompatible(message, arguments.version, error) from error


def installed_package(version: str) -> Any:  # noqa: ANN401 - the package publishes no types
    """The package; raises FailedPrecondition (ENGINE_INCOMPATIBLE) if it is missing or not of `version`."""
    needs = f"the engine needs the tensorrt_llm package, version {version}"
    try:
        import tensorrt_llm  # noqa: PLC0415 - gigabytes, and only for engines that need it
    except ImportError as error:
        raise _incompatible(f"{needs}; it cannot be imported here: {error}", version, error) from error
    if tensorrt_llm.__version__ != version:
        raise _incompatible(f"{needs}; here is {tensorrt_llm.__version__}", version, tensorrt_llm.__version__)
    return tensorrt_llm


def check_quantization(arguments: LlmArguments) -> None:
    """Raise FailedPrecondition (ENGINE_INCOMPATIBLE) unless the weights are quantized as they have to be."""
    if not arguments.quantization:
        return
    found = quantization_of(arguments.model)
    if found != arguments.quantization:
        what = f"the weights have to be quantized to {arguments.quantization}; {QUANTIZATION_PATH} of the model says "
        raise _incompatible(what + (found or "nothing"), arguments.version, found)


def quantization_of(folder: Path) -> str:
    """What the weights in `folder` are quantized to, as ModelOpt names it; empty: they are not."""
    try:
        return str(json.loads((folder / QUANTIZATION_PATH).read_bytes())["quantization"]["quant_algo"] or "")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _incompatible(message: str, version: str, found: object) -> FailedPrecondition:
    return FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, tensorrt_llm=version, found=found)
