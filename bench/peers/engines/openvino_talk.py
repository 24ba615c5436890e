"""OpenVINO GenAI's own pipeline with its chat, as its guide has it: the library alone, no server and no HTTP.

OpenVINO Model Server, which wraps the same pipeline, is a container or an archive and in no package registry. Neither
reads every GGUF file, so the file's weights are written out by transformers and compressed anew: the same words, other
roundings. The whole conversation is given each turn; its beginning is found in the cache, which nothing bounds.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from os import getpid
from pathlib import Path
from typing import Any

import openvino_genai as genai

from bench.peers.engines.open_vino import export
from bench.peers.peer import Job
from bench.peers.talk import Heard, Said, Talker

LAST = "tokenizer.json"


def load(job: Job) -> Talker:
    """Export the GGUF file if that was not done before, and load it; the variant is int8 or int4."""
    whole = job.scratch.parent / "whole"
    if not (whole / LAST).exists():
        _unpack(job.checkpoint, whole)
    export(job, whole, whole)
    return OpenVino(job)


def _unpack(file: Path, folder: Path) -> None:
    """The file's weights in float32 and its tokenizer, in Hugging Face's layout."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as in open_vino

    AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


class Counted(genai.StreamerBase):  # type: ignore[misc]  # no types where it is not installed
    """Tells of each token when it comes."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self._heard = heard

    def write(self, token: int | list[int]) -> Any:  # noqa: ANN401 - as above
        self._heard.add("", 1 if isinstance(token, int) else len(token))
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


class OpenVino:
    """A `Talker`."""

    def __init__(self, job: Job) -> None:
        self._pipeline: Any = genai.LLMPipeline(str(job.scratch), "CPU", INFERENCE_NUM_THREADS=job.threads)
        self._history: Any = genai.ChatHistory()

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("openvino", "openvino-genai", "optimum-intel", "nncf")}

    def say(self, text: str, new: int) -> Said:
        self._history.append({"role": "user", "content": text})
        heard = Heard(lambda: [getpid()])
        given = {"max_new_tokens": new, "do_sample": False}
        reply = self._pipeline.generate(self._history, streamer=Counted(heard), **given).texts[0]
        said = heard.said()
        self._history.append({"role": "assistant", "content": reply})
        return replace(said, text=reply)
