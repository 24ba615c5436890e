"""TensorRT-LLM as a generator, over a fake of the package: real threads and a real loop, no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from common.errors import Internal
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.engines.engine_thread import EngineThread
from runtime_service.engines.loaded_engine import make_scheduler
from runtime_service.recompute.tensorrt_llm_generator import TensorRtLlmGenerator
from runtime_service.recompute.tensorrt_llm_model import LlmArguments
from runtime_service.recompute.token_generator import Completed, Failed, GenerationEvent, LoadedGenerator, Token
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.scheduler_events import SchedulerEvent
from runtime_service.scheduling.slots import Tenant
from tests.fakes import tensorrt_llm as fake_tensorrt_llm
from tests.fakes.scripted_generator import next_token
from tests.unit.runtime_service.recompute.recomputing import Recomputing

VERSION = "1.3.0rc27"
GREEDY = GenerationOptions(max_new_tokens=8, temperature=0.0)
ARGUMENTS = LlmArguments(Path("/models/demo"), VERSION, "bfloat16", max_slots=4, max_tokens=64)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRtLlmGenerator]:
    fake_tensorrt_llm.install(monkeypatch, VERSION)
    generator = TensorRtLlmGenerator(ARGUMENTS)
    yield generator
    if not fake_of(generator).closed:
        generator.close()


def fake_of(generator: TensorRtLlmGenerator) -> fake_tensorrt_llm.LLM:
    llm = generator._llm
    assert isinstance(llm, fake_tensorrt_llm.LLM)
    return llm


class Hearer:
    """Keeps what is told, and waits for it."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[GenerationEvent] = SimpleQueue()
        self.heard: list[GenerationEvent] = []

    def wait(self) -> GenerationEvent:
        self.heard.append(self.queue.get(timeout=30))
        return self.heard[-1]

    def rest(self) -> list[GenerationEvent]:
        while isinstance(self.wait(), Token):
            pass
        return self.heard

    @property
    def tokens(self) -> list[int]:
        return [heard.sampled.token_id for heard in self.heard if isinstance(heard, Token)]


def start(
    generator: TensorRtLlmGenerator, tokens: tuple[int, ...], most: int, options: GenerationOptions = GREEDY
) -> tuple[Any, Hearer]:
    hearer = Hearer()
    return generator.start(tokens, options, most, hearer.queue.put), hearer


def settled(generator: TensorRtLlmGenerator) -> None:
    """Wait until the loop has done all that it was asked for so far."""

    async def nothing() -> None:
        return None

    for _ in range(3):
        asyncio.run_coroutine_threadsafe(nothing(), generator._loop).result(30)


# Generations


def test_every_token_is_told_once_and_then_the_end(generator: TensorRtLlmGenerator) -> None:
    _, hearer = start(generator, (1, 2, 3), 5)
    assert hearer.rest()[-1] == Completed()
    seen = [1, 2, 3]
    for _ in range(5):
        seen.append(next_token(seen))
    assert hearer.tokens == seen[3:]


def test_tokens_that_come_in_lumps_are_told_one_by_one(generator: TensorRtLlmGenerator) -> None:
    fake_of(generator).pace = threading.Semaphore(0)
    _, hearer = start(generator, (1,), 3)
    settled(generator)
    fake_of(generator).requests[0].put([5, 6], None)
    fake_of(generator).requests[0].put([7], "length")
    assert hearer.rest()[-1] == Completed()
    assert hearer.tokens == [5, 6, 7]


@pytest.mark.parametrize("count", [0, 3])
def test_logprobs_are_those_of_the_token_and_of_the_likeliest(generator: TensorRtLlmGenerator, count: int) -> None:
    options = replace(GREEDY, temperature=1.0, seed=1, logprobs=count)
    _, hearer = start(generator, (1, 2), 4, options)
    hearer.rest()
    assert len(hearer.tokens) == 4
    for heard in hearer.heard[:-1]:
        assert isinstance(heard, Token)
        sampled = heard.sampled
        values = [logprob for _, logprob in sampled.top]
        assert len(values) == count
        assert values == sorted(values, reverse=True)
        assert sampled.logprob is not None
        assert all(sampled.logprob <= logprob or token == sampled.token_id for token, logprob in sampled.top)


def test_generations_run_beside_one_another(generator: TensorRtLlmGenerator) -> None:
    hearers = [start(generator, (token,), 6)[1] for token in range(4)]
    replies = [hearer.rest() for hearer in hearers]
    assert all(reply[-1] == Completed() for reply in replies)
    assert [len(hearer.tokens) for hearer in hearers] == [6] * 4


def test_an_abort_reaches_the_request_once_and_nothing_is_told_after(generator: TensorRtLlmGenerator) -> None:
    llm = fake_of(generator)
    llm.pace = threading.Semaphore(2)
    generation, hearer = start(generator, (1,), 9)
    for _ in range(2):
        hearer.wait()
    for _ in range(3):
        generation.abort()
    llm.pace.release(20)
    llm.workers[0].thread.join()
    settled(generator)
    assert llm.requests[0].aborts == 1
    assert hearer.queue.empty()
    assert not generator._running


def test_an_abort_before_the_request_exists_makes_none(generator: TensorRtLlmGenerator) -> None:
    held = threading.Event()
    generator._loop.call_soon_threadsafe(held.wait)
    generation, hearer = start(generator, (1,), 9)
    generation.abort()
    held.set()
    settled(generator)
    assert not fake_of(generator).requests
    assert hearer.queue.empty()


def test_an_abort_after_the_end_is_nothing(generator: TensorRtLlmGenerator) -> None:
    generation, hearer = start(generator, (1,), 2)
    hearer.rest()
    generation.abort()
    settled(generator)
    assert fake_of(generator).requests[0].aborts == 0
    generator.close()
    generation.abort()


@pytest.mark.parametrize("seed", range(20))
def test_aborts_at_any_moment_leave_nothing_behind(generator: TensorRtLlmGenerator, seed: int) -> None:
    llm = fake_of(generator)
    started = [start(generator, (seed, index), 30) for index in range(4)]
    for index, (generation, hearer) in enumerate(started):
        for _ in range((seed * 7 + index * 5) % 12):
            hearer.wait()
        generation.abort()
    for worker in list(llm.workers):
        worker.thread.join()
    settled(generator)
    assert not generator._running
    assert all(request.finished for request in llm.requests)


def test_an_error_of_the_package_breaks_the_generation_without_its_text(generator: TensorRtLlmGenerator) -> None:
    fake_of(generator).faults[2] = RuntimeError("secret")
    _, hearer = start(generator, (1,), 9)
    last = hearer.rest()[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, Internal)
    assert "secret" not in last.error.message
    assert len(hearer.tokens) == 2
    settled(generator)
    assert fake_of(generator).requests[0].aborts == 1


def test_a_prompt_that_the_package_refuses_breaks_the_generation(generator: TensorRtLlmGenerator) -> None:
    _, hearer = start(generator, (1,) * 60, 9)
    assert isinstance(hearer.wait(), Failed)


def test_a_reply_that_ends_for_another_reason_is_broken(generator: TensorRtLlmGenerator) -> None:
    fake_of(generator).faults[1] = "timeout"
    _, hearer = start(generator, (1,), 9)
    last = hearer.rest()[-1]
    assert isinstance(last, Failed)
    assert "timeout" in last.error.message


def test_an_abort_that_fails_is_nobodys_problem(
    generator: TensorRtLlmGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = fake_of(generator)
    llm.pace = threading.Semaphore(1)
    generation, hearer = start(generator, (1,), 9)
    hearer.wait()
    monkeypatch.setattr(llm.requests[0], "abort", lambda: 1 / 0)
    generation.abort()
    settled(generator)
    _, other = start(generator, (2,), 2)
    llm.pace.release(20)
    assert other.rest()[-1] == Completed()


def test_close_aborts_what_runs_and_frees_the_model(generator: TensorRtLlmGenerator) -> None:
    llm = fake_of(generator)
    llm.pace = threading.Semaphore(1)
    generation, hearer = start(generator, (1,), 9)
    hearer.wait()
    generator.close()
    assert llm.closed
    assert llm.requests[0].aborts == 1
    assert not generator._thread.is_alive()
    generation.abort()
    assert hearer.queue.empty()


# The whole of it


@pytest.mark.parametrize("stride", [0, 1, 5])
async def test_turns_run_over_it_in_a_thread_as_they_do_step_by_step(
    generator: TensorRtLlmGenerator, stride: int
) -> None:
    stage = Recomputing(stride=stride)
    thread = threaded(generator, stage)
    prompts = [tuple(range(index, index + 9)) for index in range(5)]
    outcomes = [spoken(thread, stage, prompt) for prompt in prompts]
    for prompt, outcome in zip(prompts, await asyncio.gather(*outcomes), strict=True):
        talker = stage.talker()
        stage.submit(talker, prompt, options=replace(GREEDY, max_new_tokens=20))
        stage.finish()
        assert outcome.reason is FinishReason.LENGTH
        assert list(outcome.tokens) == talker.history
    await thread.stop_engine()
    assert fake_of(generator).closed


async def spoken(thread: EngineThread, stage: Recomputing, prompt: tuple[int, ...]) -> Outcome:
    """How a turn of a new session ended."""
    options = replace(GREEDY, max_new_tokens=20)
    work = Work("turn", prompt, options, accepted_at=0.0, reply=Reply(stage.text, options, frozenset()))
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def hear(event: SchedulerEvent) -> None:
        if isinstance(event, Outcome):
            ended.set_result(event)

    tenant = Tenant("t", TokenHistory(stage.talker().tenant.history.window))
    thread.post(lambda scheduler: scheduler.submit(tenant, work, hear))
    return await ended


async def test_a_thread_that_stops_aborts_what_runs(generator: TensorRtLlmGenerator) -> None:
    stage = Recomputing()
    llm = fake_of(generator)
    llm.pace = threading.Semaphore(0)
    thread = threaded(generator, stage)
    turn = asyncio.create_task(spoken(thread, stage, (1, 2)))
    await asyncio.sleep(0)
    while not thread.scheduler.residents:  # a step has not started the turn yet
        await thread.post_and_wait(lambda _scheduler: None)
    await asyncio.to_thread(settled, generator)
    await thread.stop_engine()
    turn.cancel()
    assert llm.closed
    assert [request.aborts for request in llm.requests] == [1]


def threaded(generator: TensorRtLlmGenerator, stage: Recomputing) -> EngineThread:
    loaded = LoadedGenerator(generator, stage.text, slots=2, stride_tokens=stage.stride)
    return EngineThread(partial(make_scheduler, loaded, Limits(1, 8, 0, 0.1)), generator.close, "demo")
