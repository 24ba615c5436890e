"""Responses and the events of their streams, as OpenAI's clients read them. Pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sinkserve.client import FinishReason
from sinkserve.web.openai.chat.answer import token_logprobs
from sinkserve.web.openai.follow import Ended, Started
from sinkserve.web.openai.ids import TurnName, conversation_id
from sinkserve.web.openai.relay import Piece
from sinkserve.web.openai.responses.output import Event, Output
from sinkserve.web.openai.responses.request import LOGPROBS, ResponseRequest


class ResponseAnswer:
    """One response: events for a stream, or the whole."""

    def __init__(self, started: Started, asked: ResponseRequest) -> None:
        turn = started.place.turn
        self._output = Output(turn)
        self._with_logprobs = LOGPROBS in asked.include
        self._head = {**response_head(turn, started.engine, int(time.time())), **_echo(asked)}

    def opening(self) -> Iterator[Event]:
        """What comes before any text."""
        response = {**self._head, "status": "in_progress", "output": [], "usage": None}
        yield {"type": "response.created", "response": response}
        yield {"type": "response.in_progress", "response": response}

    def piece(self, piece: Piece) -> Iterator[Event]:
        """Something of the reply."""
        if piece.reasoning:
            yield from self._output.think(piece.reasoning)
        if piece.text or (piece.logprobs and not (piece.reasoning or piece.calls)):
            tokens = [token_logprobs(each) for each in piece.logprobs] if self._with_logprobs else []
            yield from self._output.say(piece.text, tokens)
        for call in piece.calls:
            yield from self._output.call(call)

    def closing(self, ended: Ended) -> Iterator[Event]:
        """What comes after the reply."""
        status = status_of(ended.finished.reason)
        yield from self._output.close(status)
        yield {"type": f"response.{status}", "response": self._response(ended, status)}

    def whole(self, pieces: Iterable[Piece], ended: Ended) -> dict[str, Any]:
        """All in one."""
        for each in pieces:
            deque(self.piece(each), maxlen=0)
        *_, last = self.closing(ended)
        response: dict[str, Any] = last["response"]
        return response

    def _response(self, ended: Ended, status: str) -> dict[str, Any]:
        usage = ended.finished.usage
        return {
            **self._head,
            **how_it_ended(status),
            "output": self._output.items(status),
            "usage": usage_of(usage.prompt_tokens, usage.generated_tokens, usage.reasoning_tokens),
        }


def response_head(turn: TurnName, engine: str, created: int) -> dict[str, Any]:
    """What a response has from its beginning on; what it does not use is as OpenAI's clients expect it."""
    return {
        "id": turn.response,
        "object": "response",
        "created_at": created,
        "model": engine,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "truncation": "auto",
        "background": False,
        "conversation": {"id": conversation_id(turn.session)},
    }


def status_of(reason: FinishReason) -> str:
    """The status of a response by why its turn ended."""
    return _STATUSES.get(reason, "completed")


_STATUSES: Mapping[FinishReason, str] = {
    FinishReason.LENGTH: "incomplete",
    FinishReason.CONTEXT_FULL: "incomplete",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "failed",
}


def how_it_ended(status: str) -> dict[str, Any]:
    """The fields that say so."""
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {"status": status, "incomplete_details": reason}


def usage_of(fed: int, generated: int, reasoning: int) -> dict[str, Any]:
    """Tokens that were fed and generated for this request; what the session had heard before costs nothing."""
    return {
        "input_tokens": fed,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": fed + generated,
    }


def _echo(asked: ResponseRequest) -> dict[str, Any]:
    names = ("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "store", "metadata")
    more = {
        "text": {"format": asked.text.format or {"type": "text"}},
        "tools": asked.tools or [],
        "tool_choice": asked.tool_choice or "auto",
    }
    return {**{name: getattr(asked, name) for name in names}, **more}
