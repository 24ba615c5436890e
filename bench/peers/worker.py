"""The process of one peer: loads it, then does what standard input asks for, a line of JSON each, until it ends.

    PYTHONPATH=. ENVIRONMENT/bin/python -m bench.peers.worker PEER < requests

What fails is answered with {"error": ...}. Answers go to the standard output that the process was given; libraries
that print are sent to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.peers.peer import Job, Peer, TooSlow

MODULES = {
    "ours": "ours",
    "llama": "llama",
    "streaming": "streaming",
    "recompute": "recompute",
    "openvino": "open_vino",
    "llama_file": "llama_file",
    "ours_talk": "ours_talk",
    "llama_talk": "llama_talk",
    "openvino_talk": "openvino_talk",
}


class Worker:
    """One peer, and the requests that it understands: names of its methods without `_do_`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._peer: Peer | None = None

    def answer(self, request: dict[str, Any]) -> object:
        """Do one request."""
        return getattr(self, f"_do_{request.pop('do')}")(**request)

    def _do_load(self, **job: Any) -> object:  # noqa: ANN401 - fields of Job
        paths = {"checkpoint": Path(job["checkpoint"]), "scratch": Path(job["scratch"])}
        module = importlib.import_module(f"bench.peers.engines.{MODULES[self._name]}")
        self._peer = module.load(Job(**job | paths))
        return self._loaded.versions

    def _do_prefill(self, count: int) -> object:
        return self._loaded.prefill(count)

    def _do_fill(self, sessions: int, most_s: float) -> object:
        self._loaded.fill(sessions, most_s)
        return None

    def _do_decode(self, seconds: float) -> object:
        """Seconds of each of at least 2 steps, and of as many as fit into `seconds`."""
        steps: list[float] = []
        while len(steps) < 2 or sum(steps) < seconds:
            steps.append(self._loaded.step())
        return steps

    def _do_turn(self, prompt: int, new: int) -> object:
        return asdict(self._loaded.turn(prompt, new))

    def _do_say(self, text: str, new: int) -> object:
        """Only those that talk are told."""
        return asdict(self._loaded.say(text, new))  # type: ignore[attr-defined]

    def _do_logits(self, tokens: list[int], out: str) -> object:
        """Logits after each of `tokens`, written to the file `out`; only `llama_file` has them."""
        self._loaded.logits(tokens, out)  # type: ignore[attr-defined]
        return None

    def _do_memory(self) -> object:
        """Bytes of memory that the process has now, files that it maps included."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def _loaded(self) -> Peer:
        assert self._peer is not None, "load first"
        return self._peer


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = {"result": worker.answer(json.loads(line))}
        except TooSlow as error:
            answer = {"error": f"left out: {error}"}
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
