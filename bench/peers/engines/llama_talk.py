"""llama-cpp-python's server over a GGUF file, which finds the beginning of a conversation in its cache again."""

from __future__ import annotations

import atexit
import http.client
import json
import socket
import subprocess
import sys
import time
from importlib.metadata import version

from bench.peers.peer import Job
from bench.peers.talk import CONTEXT, Heard, Said, Talker

PATIENCE_S = 600


def load(job: Job) -> Talker:
    """Start the server on a free port; it ends with this process."""
    return LlamaServer(job)


class LlamaServer:
    """A `Talker`."""

    def __init__(self, job: Job) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        options = {"model": job.checkpoint, "n_ctx": CONTEXT, "n_threads": job.threads, "n_threads_batch": job.threads}
        command = [sys.executable, "-m", "llama_cpp.server", "--port", str(self._port)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        atexit.register(self._server.kill)
        while not self._listens():
            if self._server.poll() is not None:
                raise RuntimeError("llama-cpp-python's server ended; its log says why")
            time.sleep(0.5)
        self._messages: list[dict[str, str]] = []

    @property
    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": version("llama-cpp-python")}

    def say(self, text: str, new: int) -> Said:
        self._messages.append({"role": "user", "content": text})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        body = {"messages": self._messages, "max_tokens": new, "temperature": 0.0, "stream": True}
        heard = Heard(lambda: [self._server.pid])
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {") and (piece := json.loads(line[6:])["choices"][0]["delta"].get("content")):
                heard.add(piece)
        said = heard.said()
        self._messages.append({"role": "assistant", "content": said.text})
        return said

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
