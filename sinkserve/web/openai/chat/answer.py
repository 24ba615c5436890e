"""Chat completions and their chunks, as OpenAI's clients read them. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sinkserve.client import Finished, FinishReason, ToolCallDelta
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.openai.follow import Ended, Started
from sinkserve.web.openai.relay import Piece

_REASONS: Mapping[FinishReason, str] = {
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT_FULL: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
}


@dataclass
class ChatAnswer:
    """One answer: `started` makes its id, then chunks, or the whole."""

    started: Started
    with_logprobs: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self) -> dict[str, Any]:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A chunk of text, of what the model thinks, or of calls."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text or not (piece.reasoning or piece.calls) else {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.calls:
            delta["tool_calls"] = [_call_piece(each) for each in piece.calls]
        return self._chunk(delta, logprobs=self._tokens(piece))

    def closing(self, ended: Ended) -> dict[str, Any]:
        """The last chunk with a choice."""
        return self._chunk({}, reason=_reason(ended.finished))

    def usage_chunk(self, ended: Ended) -> dict[str, Any]:
        """The chunk that has the usage alone."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(ended.finished)}

    def whole(self, pieces: Sequence[Piece], ended: Ended) -> dict[str, Any]:
        """All in one."""
        tokens = [each for piece in pieces for each in self._tokens(piece) or ()]
        choice = {
            "index": 0,
            "message": _message(ended),
            "logprobs": {"content": tokens, "refusal": None} if self.with_logprobs else None,
            "finish_reason": _reason(ended.finished),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(ended.finished)}

    def _tokens(self, piece: Piece) -> list[dict[str, Any]] | None:
        return [token_logprobs(each) for each in piece.logprobs] if self.with_logprobs else None

    def _chunk(
        self, delta: Mapping[str, Any], *, logprobs: list[dict[str, Any]] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        said = None if logprobs is None else {"content": logprobs, "refusal": None}
        choice = {"index": 0, "delta": delta, "logprobs": said, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        session, number = self.started.place.turn
        name = f"chatcmpl-{session}-{number}"
        return {"id": name, "object": kind, "created": self.created, "model": self.started.engine}


def _message(ended: Ended) -> dict[str, Any]:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in ended.finished.tool_calls
    ]
    return {
        "role": "assistant",
        "content": ended.text if ended.text or not calls else None,
        "refusal": None,
        **({"reasoning_content": ended.reasoning} if ended.reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _call_piece(piece: ToolCallDelta) -> dict[str, Any]:
    """The first of a call has its id and its name."""
    function = {**({"name": piece.name} if piece.name else {}), "arguments": piece.arguments}
    return {"index": piece.index, **({"id": piece.id, "type": "function"} if piece.id else {}), "function": function}


def usage(finished: Finished) -> dict[str, Any]:
    """Tokens that were fed and generated for this request; what the session had heard before costs nothing."""
    fed, generated = finished.usage.prompt_tokens, finished.usage.generated_tokens
    return {
        "prompt_tokens": fed,
        "completion_tokens": generated,
        "total_tokens": fed + generated,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": finished.usage.reasoning_tokens, "audio_tokens": 0},
    }


def _reason(finished: Finished) -> str:
    return _REASONS.get(finished.reason, "stop")


def token_logprobs(each: pb.TokenLogprobs) -> dict[str, Any]:
    """A token that was generated, its logarithm of probability, and the likeliest there."""
    top = [_likely(other.token, other.logprob) for other in each.top]
    return {**_likely(each.token, each.logprob), "top_logprobs": top}


def _likely(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}
