"""Conversations over an engine that keeps no cache: threads, loop and API of TensorRT-LLM, without its models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.spec.published_engine import PublishedEngine
from runtime_service.decoding.text import Text
from runtime_service.engines.loader import Loaded
from runtime_service.recompute.tensorrt_llm_generator import TensorRtLlmGenerator
from runtime_service.recompute.tensorrt_llm_model import LlmArguments
from runtime_service.recompute.token_generator import LoadedGenerator
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.fakes import tensorrt_llm as fake_tensorrt_llm
from tests.samples.vocabularies import BEGIN, byte_level
from tests.service.runtime.runtime import ENDLESS, Bench, tokens_of
from tests.unit.runtime_service.recompute.recomputing import recomputed

WINDOW = pb.SessionOptions(window_tokens=20, sink_tokens=2)
PLAIN = {"max_new_tokens": 30, "ignore_eos": True, "temperature": 0.0}
STRIDE = 3
VERSION = "1.3.0rc27"


@dataclass
class LlmBench(Bench):
    """Loads every engine into a fake TensorRT-LLM."""

    generators: list[TensorRtLlmGenerator] = field(default_factory=list)

    def _load(self, published: PublishedEngine) -> Loaded | LoadedGenerator:
        geometry = published.manifest.geometry
        capacity = geometry.sinks + geometry.window
        arguments = LlmArguments(Path("/model"), VERSION, "bfloat16", max_slots=geometry.slots, max_tokens=capacity)
        self.generators.append(TensorRtLlmGenerator(arguments))
        text = Text(byte_level(), published.manifest)
        return LoadedGenerator(self.generators[-1], text, geometry.slots, STRIDE)

    @property
    def llm(self) -> fake_tensorrt_llm.LLM:
        llm = self.generators[-1]._llm
        assert isinstance(llm, fake_tensorrt_llm.LLM)
        return llm


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LlmBench]:
    fake_tensorrt_llm.install(monkeypatch, VERSION)
    bench = LlmBench(tmp_path, {"max_replay_tokens": 1})
    bench.publish()
    await bench.start()
    yield bench
    if bench.channel is not None:
        await bench.channel.close()
    await bench.stop()
    assert all(generator._llm.closed for generator in bench.generators)


@pytest.mark.parametrize("options", [WINDOW, None])
async def test_a_conversation_goes_on_after_the_server_has_started_again(
    bench: LlmBench, options: pb.SessionOptions | None
) -> None:
    stream = await bench.opened(options=options)
    window = bench.handle.sessions.live[0].session.window
    history = [BEGIN]
    for turn in ([7, 8, 9], list(range(20, 35)), [10, 11]):
        await stream.turn(token_ids=pb.TokenIds(ids=turn), generation=PLAIN)
        said = tokens_of(await stream.until("finished"))
        history += turn
        assert said == recomputed(history, window, STRIDE, 30)
        history += said
    await bench.stop()
    await bench.start()
    back = bench.stream()
    opened = await back.resume(stream.session)
    assert (opened.session.position, opened.kv_recomputed) == (len(history), True)
    await back.turn(token_ids=pb.TokenIds(ids=[12]), generation=PLAIN)
    assert tokens_of(await back.until("finished")) == recomputed([*history, 12], window, STRIDE, 30)
    await back.half_close()
    await back.rest()


async def test_many_conversations_are_told_apart(bench: LlmBench) -> None:
    streams = [await bench.opened() for _ in range(6)]
    for index, stream in enumerate(streams):
        await stream.turn(token_ids=pb.TokenIds(ids=[30 + index]), generation=PLAIN)
    window = bench.handle.sessions.live[0].session.window
    for index, events in enumerate(await asyncio.gather(*(stream.until("finished") for stream in streams))):
        assert tokens_of(events) == recomputed([BEGIN, 30 + index], window, STRIDE, 30)
    for stream in streams:
        await stream.half_close()
        await stream.rest()


async def test_a_cancelled_turn_ends_and_its_request_is_aborted(bench: LlmBench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=ENDLESS | {"temperature": 0.0})
    await stream.first_delta()
    await stream.send(cancel=pb.CancelTurn(turn_id="t"))
    finished = await stream.finished()
    assert finished.reason == pb.FINISH_REASON_CANCELLED
    await stream.half_close()
    await stream.rest()
    await bench.stop()
    assert all(request.finished or request.aborts for request in bench.llm.requests)
