"""A peer from outside: a process of its own environment, asked in lines of JSON."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.peers.members import Member

ROOT = Path(__file__).resolve().parents[2]


class PeerFailed(Exception):
    """What a peer answered instead of a result, or how its process ended."""


class PeerProcess:
    """Starts at once; `log` gets what the peer's libraries print. Every request has `limit_s` seconds."""

    def __init__(self, member: Member, environments: Path, log: Path, limit_s: float, tree: Path = ROOT) -> None:
        """Runs the bench and the product that lie in `tree`. Raises PeerFailed if the environment is not there."""
        python = environments / member.environment / "bin" / "python" if member.environment else Path(sys.executable)
        if not python.exists():
            raise PeerFailed(f"not installed: no {python}; run with --install")
        self._log = log
        self._limit_s = limit_s
        command = [str(python), "-m", "bench.peers.worker", member.module]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )

    def ask(self, do: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """The result; raises PeerFailed for an error, an end of the process, and no answer in time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise PeerFailed(self._end()) from None
        answer = json.loads(self._line(do))
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer["result"]

    def end(self, patience_s: float = 60) -> None:
        """Let the process end what it has started, and itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self.stop()

    def stop(self) -> None:
        """End the process, now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._limit_s)[0]:
            self.stop()
            raise PeerFailed(f"no answer to {do!r} in {self._limit_s:.0f} s")
        line: bytes = self._process.stdout.readline()
        if not line:
            raise PeerFailed(self._end())
        return line

    def _end(self) -> str:
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        last = self._log.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
        return f"the process ended, {how}: {last[-200:]}"
