"""The span of a turn that ended, by OpenTelemetry's conventions for generative AI.

Source: open-telemetry/semantic-conventions-genai 0.1.0, all in development. What is ours begins with `sinkserve`.
Nothing that a client wrote is in it but ids.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.tracing.span import Attribute, Span
from runtime_service.domain.session import Session
from runtime_service.domain.turn import FinishReason, Result, Turn


def turn_span(session: Session, turn: Turn, end_s: float) -> Span:
    """A turn of `session` that ended at `end_s`, with its stages as children."""
    assert turn.result is not None, turn
    result, timing = turn.result, turn.result.timing
    decode_s = timing.decode_s if result.usage.generated_tokens else 0.0
    start_s = end_s - timing.queue_s - timing.prefill_s - decode_s
    return Span(
        name=f"chat {session.engine}",
        start_s=start_s,
        end_s=end_s,
        attributes=dict(_attributes(session, turn, result)),
        children=tuple(_stages(result, start_s, end_s)),
        error="" if result.error is None else result.error.reason.value,
        serves=True,
    )


def _stages(result: Result, start_s: float, end_s: float) -> Iterator[Span]:
    timing = result.timing
    slot_s = start_s + timing.queue_s
    yield Span("queue", start_s, slot_s)
    if result.usage.prompt_tokens or result.usage.generated_tokens:
        fed_s = slot_s + timing.prefill_s
        yield Span("prefill", slot_s, fed_s, {"gen_ai.usage.input_tokens": result.usage.prompt_tokens})
        if result.usage.generated_tokens:
            yield Span("decode", fed_s, end_s, {"gen_ai.usage.output_tokens": result.usage.generated_tokens})


def _attributes(session: Session, turn: Turn, result: Result) -> Iterator[tuple[str, Attribute]]:
    options, usage = turn.options, result.usage
    yield "gen_ai.operation.name", "chat"
    yield "gen_ai.provider.name", "sinkserve"
    yield "gen_ai.request.model", session.engine
    yield "gen_ai.conversation.id", session.name
    yield "gen_ai.conversation.compacted", (usage.window_start_position or 0) > session.window.sinks
    yield "gen_ai.request.max_tokens", options.max_new_tokens
    yield "gen_ai.request.temperature", options.temperature
    yield "gen_ai.request.top_p", options.top_p
    yield "gen_ai.request.top_k", options.top_k
    yield "gen_ai.response.finish_reasons", [result.reason.value.lower()]
    yield "gen_ai.usage.input_tokens", usage.prompt_tokens
    yield "gen_ai.usage.output_tokens", usage.generated_tokens
    if usage.generated_tokens and result.reason is not FinishReason.ERROR:
        yield "gen_ai.response.time_to_first_chunk", result.timing.first_token_s
    yield "sinkserve.turn.id", turn.turn_id
    yield "sinkserve.turn.attempt", turn.attempt
    yield "sinkserve.session.position", usage.position
    yield "sinkserve.turn.evicted_tokens", usage.evicted_tokens
    yield "sinkserve.turn.recalled_tokens", usage.recalled_tokens
