"""llama.cpp through llama-cpp-python's low-level bindings, with its own context shift: half of a full cache goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

from bench.peers.engines.gguf_file import write_gguf
from bench.peers.engines.llama_model import open_model, quantize, versions
from bench.peers.peer import Job, Peer, Turn, timed, token_ids

ROOM = 64
"""Rows that decoding fills before it goes back: so many are free at first, none at last."""


def load(job: Job) -> Peer:
    """Convert and quantize the checkpoint if that was not done before, and load it; the variant is q4_0 or q8_0."""
    return Llama(job, open_model(quantized(job)))


def quantized(job: Job) -> Path:
    """The file, made by llama.cpp's own quantization with its choice of types."""
    made, whole = job.scratch / f"{job.variant}.gguf", job.scratch.parent / "f16.gguf"
    if not whole.exists():
        write_gguf(job.checkpoint, whole)
    quantize(whole, made, job.variant, job.threads)
    return made


class Llama:
    """A `Peer`. A context is made for each number of sessions, with buffers for each, and freed with the next."""

    def __init__(self, job: Job, model: Any) -> None:  # noqa: ANN401 - a pointer
        self._job = job
        self._model = model
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._batch = api.llama_batch_init(job.cache, 0, 1)
        self._context: Any = None
        self._sessions = 0
        self._begin(1)
        self._position = 0
        self._fed = 0
        self._next = [5]

    @property
    def versions(self) -> dict[str, str]:
        return versions()

    def prefill(self, count: int) -> float:
        self._begin(1)
        self._position = 0
        return timed(lambda: self._feed([0], 0, token_ids(count)))

    def fill(self, sessions: int, most_s: float) -> None:  # noqa: ARG002 - one cache is filled, the others get copies
        self._begin(sessions)
        self._feed([0], 0, token_ids(self._job.cache - ROOM))
        for session in range(1, sessions):
            api.llama_memory_seq_cp(api.llama_get_memory(self._context), 0, session, -1, -1)
        self._next = [5] * sessions
        self._position = self._job.cache - ROOM

    def step(self) -> float:
        if self._position == self._job.cache:
            self._position -= ROOM
            for session in range(self._sessions):
                api.llama_memory_seq_rm(api.llama_get_memory(self._context), session, self._position, -1)
        return timed(self._step)

    def turn(self, prompt: int, new: int) -> Turn:
        if not self._fed:
            self._begin(1)
            self._position = 0
        ids = token_ids(prompt, self._fed)
        self._fed += prompt + new - 1
        first = timed(lambda: self._answer(ids))
        return Turn(first, first + sum(timed(lambda: self._answer(self._next[:1])) for _ in range(new - 1)))

    def _answer(self, ids: list[int]) -> None:
        if self._position + len(ids) > self._job.cache:
            self._shift()
        self._feed([0], self._position, ids)
        self._position += len(ids)
        self._next[0] = self._best(len(ids) - 1)

    def _shift(self) -> None:
        """As llama.cpp's programs do it: the sinks stay, of the others the older half goes."""
        keep = self._job.sinks
        memory, discard = api.llama_get_memory(self._context), (self._position - keep) // 2
        api.llama_memory_seq_rm(memory, 0, keep, keep + discard)
        api.llama_memory_seq_add(memory, 0, keep + discard, self._position, -discard)
        self._position -= discard

    def _step(self) -> None:
        self._feed(list(range(self._sessions)), self._position, self._next)
        self._position += 1
        self._next = [self._best(index) for index in range(self._sessions)]

    def _feed(self, sessions: list[int], position: int, ids: list[int]) -> None:
        """One token for each of several sessions, or all for one, in one call."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.n_seq_id[index] = token, 1
            batch.pos[index] = position + (index if len(sessions) == 1 else 0)
            batch.seq_id[index][0] = sessions[0] if len(sessions) == 1 else sessions[index]
            batch.logits[index] = len(sessions) > 1 or index == len(ids) - 1
        if failed := api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode answers {failed} at position {position}, {len(ids)} tokens")
        api.llama_synchronize(self._context)

    def _best(self, index: int) -> int:
        logits = np.ctypeslib.as_array(api.llama_get_logits_ith(self._context, index), (self._vocabulary,))
        return int(np.argmax(logits))

    def _begin(self, sessions: int) -> None:
        """An empty context for so many sessions of a cache each."""
        if self._sessions != sessions:
            if self._context is not None:
                api.llama_free(self._context)
            self._context = api.llama_init_from_model(self._model, self._parameters(sessions))
            self._sessions = sessions
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context for {sessions} sessions; its log says why")
        api.llama_memory_clear(api.llama_get_memory(self._context), True)

    def _parameters(self, sessions: int) -> Any:  # noqa: ANN401 - a ctypes structure
        parameters = api.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = self._job.cache * sessions, sessions
        parameters.n_batch, parameters.kv_unified = self._job.cache, False
        parameters.n_threads = parameters.n_threads_batch = self._job.threads
        return parameters
