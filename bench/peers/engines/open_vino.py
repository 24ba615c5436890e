"""OpenVINO GenAI's continuous batching, over a model that Optimum has exported and compressed.

It keeps keys and values in 8 bits by its own default. A conversation is sent whole every turn, as its guide has it, and
what was computed before is found by its prefix; nothing bounds it, so its cache grows beyond that of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from bench.peers.peer import Job, Peer, Turn, timed, token_ids

WEIGHTS = {"int8": {"bits": 8}, "int4": {"bits": 4, "sym": True, "group_size": 32}}
TOKENIZER = Path(__file__).resolve().parents[3] / "demo" / "model"
"""GenAI wants one beside every model; peers get token ids, never text."""
FILES = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")  # written last
SESSIONS = 40
"""Full caches that there is room for."""
BLOCK = 32
ROOM = 64
"""Rows by which decoding may grow beyond the cache's size less as many, before its sessions begin anew."""
ENDLESS = 1 << 20


def load(job: Job) -> Peer:
    """Export the checkpoint if that was not done before, and load it; the variant is int8 or int4."""
    export(job, job.checkpoint, TOKENIZER)
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.num_kv_blocks = SESSIONS * (job.cache + 2 * ROOM) // BLOCK
    scheduler.max_num_batched_tokens = max(256, job.cache)
    scheduler.max_num_seqs = SESSIONS
    properties = {"INFERENCE_NUM_THREADS": job.threads}
    return OpenVino(job, genai.ContinuousBatchingPipeline(str(job.scratch), scheduler, "CPU", properties))


def export(job: Job, checkpoint: Path, tokenizer: Path) -> None:
    """Compress a checkpoint to the job's variant, in its scratch folder, if it is not there yet."""
    if (job.scratch / FILES[-1]).exists():
        return
    # Their import takes longer than loading what they made.
    from openvino_tokenizers import convert_tokenizer  # noqa: PLC0415
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    compression = OVWeightQuantizationConfig(**WEIGHTS[job.variant])
    model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, quantization_config=compression, compile=False)
    model.save_pretrained(job.scratch)
    parts = convert_tokenizer(AutoTokenizer.from_pretrained(tokenizer), with_detokenizer=True)
    for part, name in zip(parts, FILES, strict=True):
        openvino.save_model(part, job.scratch / name)


class OpenVino:
    """A `Peer`. No two sessions have a token in common, so that prefix caching makes none of them cheaper."""

    def __init__(self, job: Job, pipeline: Any) -> None:  # noqa: ANN401 - openvino_genai is not installed beside us
        self._job = job
        self._pipeline = pipeline
        self._handles: list[Any] = []
        self._steps = 0
        self._requests = 0
        self._fed = 0
        self._said: list[int] = []

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("openvino", "openvino-genai", "optimum-intel", "nncf")}

    def prefill(self, count: int) -> float:
        self._fed += 1
        ids = token_ids(count, 13 * self._fed)
        return timed(lambda: self._run(self._add(ids, 1)))

    def fill(self, sessions: int, most_s: float) -> None:  # noqa: ARG002 - sessions that were filled before are found
        for handle in self._handles:
            handle.cancel()
        self._until(lambda: not self._pipeline.has_non_finished_requests())
        rows = self._job.cache - ROOM
        self._handles = [self._add(token_ids(rows, 31 * index + 1), ENDLESS) for index in range(sessions)]
        waiting = list(self._handles)
        while waiting:
            self._pipeline.step()
            waiting = [handle for handle in waiting if not handle.can_read()]
        self._steps = 0

    def step(self) -> float:
        if self._steps == ROOM:
            self.fill(len(self._handles), 0)
        self._steps += 1
        return timed(self._pipeline.step)

    def turn(self, prompt: int, new: int) -> Turn:
        self._said += token_ids(prompt, len(self._said))
        handle = self._add(self._said, new)
        first = timed(lambda: self._until(handle.can_read))
        return Turn(first, first + timed(lambda: self._run(handle)))

    def _add(self, ids: list[int], new: int) -> Any:  # noqa: ANN401 - as above
        self._requests += 1
        config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True)
        return self._pipeline.add_request(self._requests, openvino.Tensor(np.array([ids], np.int64)), config)

    def _run(self, handle: Any) -> None:  # noqa: ANN401 - as above
        """Until the request has all its tokens, which belong to what was said."""
        self._until(lambda: not self._pipeline.has_non_finished_requests())
        self._said += [token for output in handle.read_all() for token in output.generated_ids]

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._pipeline.step()
