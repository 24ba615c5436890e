"""Continues tokens with TensorRT-LLM's `LLM`: each generation is one of its requests, streamed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import structlog

from common.errors import Internal, Reason, SinkServeError
from runtime_service.decoding.sampling import Sampled
from runtime_service.domain.options import GenerationOptions
from runtime_service.recompute.tensorrt_llm_model import LlmArguments, open_llm
from runtime_service.recompute.token_generator import Completed, Failed, GenerationEvent, OnEvent, Token

NO_END = -1  # an end token that never comes

log = structlog.get_logger()


class TensorRtLlmGeneration:
    """One request, from `start` until it ends. Its loop alone touches the request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_event: OnEvent) -> None:
        self._loop = loop
        self._on_event = on_event
        self._aborted = False
        self._request: Any = None

    def abort(self) -> None:
        """Want no more tokens."""
        self._aborted = True
        with suppress(RuntimeError):  # the loop is closed: the generator is, and its requests are gone
            self._loop.call_soon_threadsafe(self._abort)

    async def follow(self, begin: Callable[[], Any], logprobs: int | None) -> None:
        """Tell what `begin` gives, a `RequestOutput`, until it ends."""
        try:
            if not self._aborted:
                self._request = begin()
                self._emit(await self._tokens(self._request, logprobs))
        except Exception as error:
            if not self._aborted:
                log.exception("tensorrt_llm.request_failed")
            self._emit(Failed(_failed(f"TensorRT-LLM failed: {type(error).__name__}")))
        finally:
            self._abort()

    async def _tokens(self, request: Any, logprobs: int | None) -> GenerationEvent:  # noqa: ANN401 - no types
        """Tell the tokens; returns how they ended."""
        told, reason = 0, None
        async for output in request:
            completion = output.outputs[0]
            for sampled in sampled_tokens(completion, told, logprobs):
                self._emit(Token(sampled))
            told, reason = len(completion.token_ids), completion.finish_reason
        if reason == "length":
            return Completed()
        return Failed(_failed(f"TensorRT-LLM ended a reply by itself: {reason}"))

    def _emit(self, event: GenerationEvent) -> None:
        if not self._aborted:
            self._on_event(event)

    def _abort(self) -> None:
        request, self._request = self._request, None
        if request is None or request.finished:
            return
        try:
            request.abort()
        except Exception:  # its executor may be gone
            log.exception("tensorrt_llm.abort_failed")


class TensorRtLlmGenerator:
    """A model in TensorRT-LLM, on as many GPUs as its arguments say. Requests live in a loop of its own."""

    def __init__(self, arguments: LlmArguments) -> None:
        """Load the model; blocks, and raises what `open_llm` raises."""
        self._package, self._llm = open_llm(arguments)
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tensorrt-llm", daemon=True)
        self._thread.start()

    def start(
        self, tokens: tuple[int, ...], options: GenerationOptions, most: int, on_event: OnEvent
    ) -> TensorRtLlmGeneration:
        """Continue `tokens` by `most` more."""
        generation = TensorRtLlmGeneration(self._loop, on_event)
        parameters = sampling_keywords(options, most)

        def begin() -> Any:  # noqa: ANN401 - the package publishes no types
            sampling = self._package.SamplingParams(**parameters)
            return self._llm.generate_async(list(tokens), sampling, streaming=True)

        self._loop.call_soon_threadsafe(self._follow, generation, begin, options.logprobs)
        return generation

    def close(self) -> None:
        """Abort what runs and free the model."""
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        try:
            self._llm.shutdown()  # its threads post to the loop
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _follow(self, generation: TensorRtLlmGeneration, begin: Callable[[], Any], logprobs: int | None) -> None:
        task = self._loop.create_task(generation.follow(begin, logprobs))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _end_all(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()  # which aborts its request
        await asyncio.gather(*tasks, return_exceptions=True)


def sampling_keywords(options: GenerationOptions, most: int) -> dict[str, Any]:
    """Arguments of `tensorrt_llm.SamplingParams`; ends and stops are looked for elsewhere.

    `top_k` 0 is all tokens. `top_p` is always said: without both, TensorRT-LLM decodes greedily.
    """
    drawn = ("temperature", "top_k", "top_p", "min_p", "seed")
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return {
        "max_tokens": most,
        "end_id": NO_END,
        "ignore_eos": True,
        "detokenize": False,
        "add_special_tokens": False,
        "logprobs": options.logprobs,
        **({"top_k": 1} if options.temperature == 0 else {name: getattr(options, name) for name in drawn}),
        **{name: value for name, none in neutral.items() if (value := getattr(options, name)) != none},
    }


def sampled_tokens(completion: Any, told: int, logprobs: int | None) -> Iterator[Sampled]:  # noqa: ANN401 - no types
    """Tokens of a `CompletionOutput` after the first `told`, with the `logprobs` likeliest at each if asked for."""
    for index, token in enumerate(completion.token_ids[told:], told):
        if logprobs is None:
            yield Sampled(token)
            continue
        found = {other: entry.logprob for other, entry in completion.logprobs[index].items()}
        likeliest = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))
        yield Sampled(token, found[token], tuple(likeliest[:logprobs]))


def _failed(message: str) -> SinkServeError:
    return Internal(Reason.INTERNAL, message)
