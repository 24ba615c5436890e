"""Responses and the events of their streams, as OpenAI's clients read them. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sinkserve.client import FinishReason
from sinkserve.web.openai.chat.answer import token_logprobs
from sinkserve.web.openai.follow import Ended, Started
from sinkserve.web.openai.ids import TurnName, conversation_id
from sinkserve.web.openai.relay import Piece
from sinkserve.web.openai.responses.request import LOGPROBS, ResponseRequest

Event = dict[str, Any]


class ResponseAnswer:
    """One response: events for a stream, or the whole."""

    def __init__(self, started: Started, asked: ResponseRequest) -> None:
        turn = started.place.turn
        self._item = item_id(turn)
        self._with_logprobs = LOGPROBS in asked.include
        self._tokens: list[dict[str, Any]] = []
        self._head = {**response_head(turn, started.engine, int(time.time())), **_echo(asked)}

    def opening(self) -> Iterator[Event]:
        """What comes before any text."""
        response = {**self._head, "status": "in_progress", "output": [], "usage": None}
        yield {"type": "response.created", "response": response}
        yield {"type": "response.in_progress", "response": response}
        item = {**message_item(self._item, "", "in_progress"), "content": []}
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        yield {"type": "response.content_part.added", **self._place, "part": output_text("")}

    def piece(self, piece: Piece) -> Event:
        """Some text."""
        tokens = [token_logprobs(each) for each in piece.logprobs] if self._with_logprobs else []
        self._tokens += tokens
        return {"type": "response.output_text.delta", **self._place, "delta": piece.text, "logprobs": tokens}

    def closing(self, ended: Ended) -> Iterator[Event]:
        """What comes after the text."""
        response = self.whole(ended)
        item = response["output"][0]
        done = {"type": "response.output_text.done", **self._place, "text": ended.text, "logprobs": self._tokens}
        yield done
        yield {"type": "response.content_part.done", **self._place, "part": item["content"][0]}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        yield {"type": f"response.{response['status']}", "response": response}

    def whole(self, ended: Ended) -> dict[str, Any]:
        """All in one."""
        usage = ended.finished.usage
        status = status_of(ended.finished.reason)
        return {
            **self._head,
            **how_it_ended(status),
            "output": [message_item(self._item, ended.text, status, self._tokens)],
            "usage": usage_of(usage.prompt_tokens, usage.generated_tokens),
        }

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}


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


def item_id(turn: TurnName) -> str:
    """Of the message that a turn said."""
    return f"msg_{turn.session}_{turn.number}"


def message_item(item: str, text: str, status: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What the model said."""
    content = [{**output_text(text), "logprobs": list(logprobs)}]
    status = status if status in ("in_progress", "incomplete") else "completed"
    return {"id": item, "type": "message", "role": "assistant", "status": status, "content": content}


def output_text(text: str) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_of(fed: int, generated: int) -> dict[str, Any]:
    """Tokens that were fed and generated for this request; what the session had heard before costs nothing."""
    return {
        "input_tokens": fed,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": fed + generated,
    }


def _echo(asked: ResponseRequest) -> dict[str, Any]:
    names = ("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "store", "metadata")
    form = asked.text.format or {"type": "text"}
    return {**{name: getattr(asked, name) for name in names}, "text": {"format": form}}
