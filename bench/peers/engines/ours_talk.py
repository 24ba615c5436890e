"""Both services of SinkServe over a GGUF file, as `sinkserve run` takes it, and a client of theirs, which is not timed.

What is imported has been there for long, so that the services may be those of another revision's tree.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import tempfile
from contextlib import AsyncExitStack
from importlib.metadata import version

from bench.peers.peer import CLOCK, Job
from bench.peers.talk import AS_RUN, CONTEXT, Heard, Said, Talker, offspring
from common.rpc.wire import spec_to_wire
from common.spec.model_spec import BuildOptions, CacheGeometry, ModelSpec, Precision, Source, Target
from demo.chat import own_settings
from sinkserve.cli.services.embedded import embedded_services
from sinkserve.client import Client, Conversation

CACHE = CacheGeometry(sink_tokens=256, window_tokens=CONTEXT, chunk_tokens=64, max_slots=8)


def load(job: Job) -> Talker:
    """Build the engine of the file, with its own weights, in a home that is removed at the end."""
    return Ours(job)


def _options_of_run() -> BuildOptions:
    """How `sinkserve run` of this tree holds keys and values; an earlier one had no choice."""
    from common.spec.target_options import OnnxRuntimeOptions  # noqa: PLC0415
    from sinkserve.cli.terminal.engine_choice import choose_kv  # noqa: PLC0415

    chosen = choose_kv(Target.ONNXRUNTIME, Precision.KEEP)
    assert chosen
    return BuildOptions(onnxruntime=OnnxRuntimeOptions(kv_precision=chosen.precision))


class Ours:
    """A `Talker`."""

    def __init__(self, job: Job) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        atexit.register(lambda: self._runner.run(self._stack.aclose()))
        self._session = self._runner.run(self._open(job))

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("sinkserve", "onnxruntime")}

    def say(self, text: str, new: int) -> Said:
        return self._runner.run(self._say(text, new))

    async def _open(self, job: Job) -> Conversation:
        clock = os.environ.get(CLOCK, "wall")
        own_settings(self._stack.enter_context(tempfile.TemporaryDirectory()))  # takes all of ours from the environment
        os.environ[CLOCK] = clock
        os.environ["SINKSERVE_RUNTIME_THREADS"] = str(job.threads)
        addresses = self._stack.enter_context(embedded_services(job.checkpoint.parent))
        client = await self._stack.enter_async_context(Client(addresses.runtime, addresses.builder))
        source = Source(uri=str(job.checkpoint))
        options = _options_of_run() if job.variant == AS_RUN else BuildOptions()
        spec = ModelSpec(name="conversation", source=source, precision=Precision.KEEP, cache=CACHE, options=options)
        built = await client.builds.wait((await client.builds.submit(spec_to_wire(spec))).name)
        return await self._stack.enter_async_context(client.conversation(built.engine))

    async def _say(self, text: str, new: int) -> Said:
        heard = Heard(lambda: offspring(os.getpid()))
        async for delta in await self._session.say(text, temperature=0.0, max_new_tokens=new):
            heard.add(delta.text, len(delta.token_ids))
        return heard.said()
