"""The part of `tensorrt_llm` that the runtime uses, without a model: names, defaults and refusals are the package's.

Parameters and members are those of NVIDIA/TensorRT-LLM's own tests/unittest/api_stability/references{,_committed}
(llm.yaml, sampling_params.yaml, request_output.yaml, completion_output.yaml) and of the reference pages LLM,
TorchLlmArgs, SamplingParams and KvCacheConfig at https://nvidia.github.io/TensorRT-LLM/llm-api/reference.html. Of those
that the runtime does not use, some are left out; a keyword that is none is a TypeError, as it is an error there.

Tokens are those of the scripted generator: the likeliest after everything seen, or the next likely by a seed.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.fakes.engine import hashed_logits

VOCABULARY = 64


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad: str | list[str] | None = None
    bad_token_ids: list[int] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    embedding_bias: Any = None
    logits_processor: Any = None
    apply_batched_logits_processor: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    top_p_min: float | None = None
    top_p_reset_ids: int | None = None
    top_p_decay: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    beam_search_diversity_rate: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: int | None = None
    no_repeat_ngram_size: int | None = None
    min_p: float | None = None
    beam_width_array: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    return_encoder_output: bool = False
    return_perf_metrics: bool = False
    additional_model_outputs: Any = None
    lookahead_config: Any = None
    guided_decoding: Any = None
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


@dataclass(kw_only=True)
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    max_attention_window: list[int] | None = None
    sink_token_length: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None
    cross_kv_cache_fraction: float | None = None
    secondary_offload_min_priority: int | None = None
    event_buffer_max_size: int = 0
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    use_uvm: bool = False
    dtype: str = "auto"
    tokens_per_block: int = 32


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class RequestOutput:
    """Iterating gives the request itself, its outputs longer each time, as in the package."""

    def __init__(self, request_id: int, prompt: list[int], sampling: SamplingParams) -> None:
        self.request_id = request_id
        self.prompt: str | None = None
        self.prompt_token_ids = prompt
        self.outputs = [CompletionOutput(0)]
        self.finished = False
        self.sampling = sampling
        self.aborts = 0
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[tuple[list[int], str | Exception | None]] = asyncio.Queue()

    def abort(self) -> None:
        self.aborts += 1
        assert threading.current_thread() is not threading.main_thread(), "abort outside the request's loop"

    def aborted(self) -> bool:
        return self.aborts > 0

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        tokens, reason = await self._steps.get()
        if isinstance(reason, Exception):
            raise reason
        for token in tokens:
            self._append(token)
        self.outputs[0].finish_reason = reason
        self.finished = reason is not None
        return self

    def put(self, tokens: list[int], reason: str | Exception | None) -> None:
        """What a worker sends, from its thread."""
        self._loop.call_soon_threadsafe(self._steps.put_nowait, (tokens, reason))

    def _append(self, token: int) -> None:
        output, sampling = self.outputs[0], self.sampling
        if sampling.logprobs is not None:
            output.logprobs.append(logprobs([*self.prompt_token_ids, *output.token_ids], token, sampling.logprobs))
        output.token_ids.append(token)


class Worker:
    """Generates for one request in a thread of its own; every step waits for the model's `pace`."""

    def __init__(self, llm: LLM, request: RequestOutput) -> None:
        self._llm = llm
        self._request = request
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        request, told = self._request, list[int]()
        while len(told) < request.sampling.max_tokens:
            self._llm.pace.acquire()
            if request.aborted() or self._llm.closed:
                request.put([], "cancelled")
                return
            if (fault := self._llm.faults.pop(len(told), None)) is not None:
                request.put([], fault)
                return
            told.append(chosen([*request.prompt_token_ids, *told], request.sampling))
            request.put([told[-1]], "length" if len(told) == request.sampling.max_tokens else None)


class LLM:
    """`faults` are raised, or end a reply, before the token that they are at; `pace` is taken once for each token."""

    def __init__(  # noqa: PLR0917 - as in the package
        self,
        model: str,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        *,
        pipeline_parallel_size: int = 1,
        context_parallel_size: int = 1,
        moe_tensor_parallel_size: int | None = None,
        moe_expert_parallel_size: int | None = None,
        max_batch_size: int | None = None,
        max_input_len: int | None = None,
        max_seq_len: int | None = None,
        max_beam_width: int | None = None,
        max_num_tokens: int | None = 8192,
        load_format: str | int = 0,
        enable_chunked_prefill: bool = False,
        kv_cache_config: KvCacheConfig | None = None,
        stream_interval: int = 1,
    ) -> None:
        self.arguments = dict(locals())
        self.max_seq_len = max_seq_len
        self.skip_tokenizer_init = skip_tokenizer_init
        self.pace = threading.Semaphore(1 << 30)
        self.faults: dict[int, str | Exception] = {}
        self.requests: list[RequestOutput] = []
        self.workers: list[Worker] = []
        self.closed = False

    def generate_async(  # noqa: PLR0917 - as in the package
        self,
        inputs: str | list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self.closed:
            raise RuntimeError("LLM is shutting down")
        assert isinstance(inputs, list), "text needs a tokenizer"
        assert isinstance(sampling_params, SamplingParams)
        assert streaming
        if self.skip_tokenizer_init and sampling_params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if self.max_seq_len is not None and len(inputs) + sampling_params.max_tokens > self.max_seq_len:
            raise ValueError("prompt and max_tokens exceed max_seq_len")
        self.requests.append(RequestOutput(len(self.requests), inputs, sampling_params))
        self.workers.append(Worker(self, self.requests[-1]))
        return self.requests[-1]

    def shutdown(self) -> None:
        assert not self.closed, "shutdown twice"
        self.closed = True
        self.pace.release(1 << 10)
        for worker in self.workers:
            worker.thread.join()


def chosen(seen: list[int], sampling: SamplingParams) -> int:
    """The next token: the likeliest, or by the seed one of the others."""
    scores = hashed_logits([token + 1 for token in seen], VOCABULARY)
    greedy = sampling.top_k == 1 or (sampling.top_k is None and sampling.top_p is None)
    return int(scores.argmax()) if greedy else (int(scores.argmax()) + (sampling.seed or 0)) % VOCABULARY


def logprobs(seen: list[int], token: int, count: int) -> dict[int, Logprob]:
    """The likeliest tokens after `seen`, and `token` in any case."""
    scores = hashed_logits([one + 1 for one in seen], VOCABULARY).astype(np.float64)
    logs = scores - np.log(np.exp(scores).sum())
    order = [int(one) for one in np.argsort(-logs, kind="stable")]
    return {one: Logprob(float(logs[one]), order.index(one) + 1) for one in dict.fromkeys([*order[:count], token])}


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Make `import tensorrt_llm` find this."""
    package, llmapi = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    for name, value in {"__version__": version, "LLM": LLM, "SamplingParams": SamplingParams, "llmapi": llmapi}.items():
        setattr(package, name, value)
    for name, value in {"KvCacheConfig": KvCacheConfig, "SamplingParams": SamplingParams, "LLM": LLM}.items():
        setattr(llmapi, name, value)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", llmapi)
