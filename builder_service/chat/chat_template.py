"""A chat template, rendered by a process of its own. Works on text, not on tokens.

Templates come with checkpoints and are untrusted code. The process has limits of memory and processor time, and can be
lost: any failure of a template becomes `TemplateFailed`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from builder_service.chat.limits import MOST_CPU_S

CLOCK = "strftime_now"
"""The function that a template calls to get the date and time."""
_COMMAND = (sys.executable, "-P", "-m", "builder_service.chat.render_process")


Said = tuple[str, str] | Mapping[str, object]
"""A role and a content, or a message as templates get it."""


class TemplateFailed(Exception):
    """The template does not compile, or raises an error for these messages; the text says why."""


class ChatTemplate:
    """One compiled template, whose process lives as long. `asked_time` is whether a rendering called for the time; it
    always gets `now`.
    """

    def __init__(self, source: str, variables: Mapping[str, object], now: datetime) -> None:
        """`variables` are the named special tokens, such as `bos_token`, and what else JSON can say. Raises
        TemplateFailed.
        """
        self.asked_time = False
        self.now = now
        self.source = source
        self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
        weakref.finalize(self, _end, self._process)
        self._ask({"source": source, "variables": dict(variables), "now": now.isoformat()})

    def render(
        self, messages: Sequence[Said], *, generation: bool = False, given: Mapping[str, object] = MappingProxyType({})
    ) -> str:
        """The text of `messages`; with `generation` it ends where a reply would begin. `given` are variables of this
        rendering alone, such as `tools`.

        Raises TemplateFailed.
        """
        said = [dict(message) if isinstance(message, Mapping) else _plain(*message) for message in messages]
        answer = self._ask({"messages": said, "generation": generation, "given": dict(given)})
        self.asked_time = answer["asked_time"]
        return str(answer["text"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one question, and wait for the answer: the process ends by itself if that takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._lost()
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise TemplateFailed(answer["failed"])
        return answer

    def _lost(self) -> TemplateFailed:
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return TemplateFailed(f"it takes more than {MOST_CPU_S} s of processor time")
        return TemplateFailed(f"the process that renders it ended with status {status}")


def _plain(role: str, content: str) -> dict[str, object]:
    return {"role": role, "content": content}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
