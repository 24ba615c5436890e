"""llama.cpp on a GGUF file as it is, or quantized by its own code: logits after every token of a text."""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

from bench.peers.peer import Job

AS_IS = "as it is"
TYPES = {
    "f32": api.LLAMA_FTYPE_ALL_F32,
    "q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": api.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_0": api.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def load(job: Job) -> LlamaFile:
    """Quantize the file `job.checkpoint` if its variant is not there yet, and load it."""
    api.llama_backend_init()
    parameters = api.llama_model_default_params()
    parameters.use_mmap = False
    model = api.llama_model_load_from_file(str(_file(job)).encode(), parameters)
    if not model:
        raise RuntimeError("llama.cpp cannot load the model; its log says why")
    return LlamaFile(job, model)


def _file(job: Job) -> Path:
    if job.variant == AS_IS:
        return job.checkpoint
    whole = job.scratch / "f32.gguf"
    _quantize(job.checkpoint, whole, "f32", job.threads)
    made = job.scratch / f"{job.variant}.gguf"
    _quantize(whole, made, job.variant, job.threads)
    return made


def _quantize(source: Path, made: Path, variant: str, threads: int) -> None:
    """By llama.cpp, with its own choice of a type for each tensor; from a quantized file, its values are used."""
    if made.exists():
        return
    parameters = api.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = TYPES[variant], threads, True
    partial = made.with_suffix(".partial")
    if api.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters)):
        raise RuntimeError("llama.cpp cannot quantize the model; its log says why")
    partial.rename(made)


class LlamaFile:
    """A model with one context of `job.cache` tokens."""

    def __init__(self, job: Job, model: Any) -> None:  # noqa: ANN401 - a pointer
        parameters = api.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = job.cache
        parameters.n_threads = parameters.n_threads_batch = job.threads
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._batch = api.llama_batch_init(job.cache, 0, 1)
        self._context = api.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context; its log says why")

    @property
    def versions(self) -> dict[str, str]:
        """What runs, by package."""
        return {"llama-cpp-python": version("llama-cpp-python"), "llama.cpp": api.llama_print_system_info().decode()}

    def logits(self, tokens: list[int], out: str) -> None:
        """Read `tokens` in an empty context, and write float32 [token, vocabulary] to the file `out`."""
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, index, 1
            batch.seq_id[index][0], batch.logits[index] = 0, True
        if failed := api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode answers {failed} for {len(tokens)} tokens")
        found = np.ctypeslib.as_array(api.llama_get_logits(self._context), (len(tokens), self._vocabulary))
        found.astype(np.float32).tofile(out)
