"""llama.cpp on a GGUF file as it is, or quantized by its own code: logits after every token of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

from bench.peers.engines.llama_model import open_model, quantize, versions
from bench.peers.peer import Job

AS_IS = "as it is"


def load(job: Job) -> LlamaFile:
    """Quantize the file `job.checkpoint` if its variant is not there yet, and load it."""
    return LlamaFile(job, open_model(_file(job)))


def _file(job: Job) -> Path:
    if job.variant == AS_IS:
        return job.checkpoint
    whole = job.scratch / "f32.gguf"
    quantize(job.checkpoint, whole, "f32", job.threads)
    made = job.scratch / f"{job.variant}.gguf"
    quantize(whole, made, job.variant, job.threads)
    return made


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
        return versions()

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
