"""A model of llama.cpp from a GGUF file, and what its own code quantizes."""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp as api

TYPES = {
    "f32": api.LLAMA_FTYPE_ALL_F32,
    "q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": api.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_0": api.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def open_model(path: Path) -> Any:  # noqa: ANN401 - a pointer
    """Load a GGUF file; raises RuntimeError if llama.cpp cannot."""
    api.llama_backend_init()
    parameters = api.llama_model_default_params()
    parameters.use_mmap = False
    model = api.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise RuntimeError("llama.cpp cannot load the model; its log says why")
    return model


def quantize(source: Path, made: Path, variant: str, threads: int) -> None:
    """Make a file that is not there yet, with llama.cpp's choice of a type for each tensor.

    From a quantized file, its values are used. Raises RuntimeError if llama.cpp cannot.
    """
    if made.exists():
        return
    parameters = api.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = TYPES[variant], threads, True
    partial = made.with_suffix(".partial")
    if api.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters)):
        raise RuntimeError("llama.cpp cannot quantize the model; its log says why")
    partial.rename(made)


def versions() -> dict[str, str]:
    """What runs, by package."""
    return {"llama-cpp-python": version("llama-cpp-python"), "llama.cpp": api.llama_print_system_info().decode()}
