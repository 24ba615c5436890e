"""Counts and logs turns as they end. Belongs to the event loop; the metrics server reads it from its threads."""

from __future__ import annotations

import structlog
from prometheus_client import Counter, Histogram

from common.rpc.calls.call_log import CallLog
from common.rpc.metrics_server import new_registry
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.running_turn import Outcome

# Bounds of OpenTelemetry's gen_ai.server.time_to_first_token and gen_ai.server.time_per_output_token; the latter with
# finer ones below 10 ms, where a token takes less on a GPU.
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

_ENGINE = ("engine",)

log = structlog.get_logger()


class TurnMetrics:
    """Counters of a runtime, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.calls = CallLog("runtime", self.registry)
        self._turns = self._counter("turns", "Turns that ended, by finish reason.", "finish_reason")
        self._errors = self._counter("turn_errors", "Turns that ended in ERROR, by the error's reason.", "reason")
        self._prompt = self._counter("prompt_tokens", "Tokens of input that were fed, counted as turns end.")
        self._generated = self._counter("generated_tokens", "Tokens of replies, counted as turns end.")
        self._evicted = self._counter("evicted_tokens", "Tokens that left their session's window.")
        recalled = "Tokens of old turns that were fed again, among the tokens of input, counted as turns end."
        self._recalled = self._counter("recalled_tokens", recalled)
        drafted = "Tokens that were guessed and fed on trial, counted as turns end."
        self._drafted = self._counter("drafted_tokens", drafted)
        self._accepted = self._counter("accepted_tokens", "Drafted tokens that were right, counted as turns end.")
        forms = "Turns that ended and whose reply had a form, by whether it is whole."
        self._forms = self._counter("form_turns", forms, "form", "matched")
        self._queue = self._histogram("queue", "From a turn's acceptance until it had a slot.", FIRST_TOKEN_S)
        self._prefill = self._histogram("prefill", "From having a slot until all input was fed.", FIRST_TOKEN_S)
        first = "TTFT: from a turn's acceptance until its first token. Not of turns that ended in ERROR."
        self._first_token = self._histogram("time_to_first_token", first, FIRST_TOKEN_S)
        mean = "Mean time of a turn's tokens after the first. Not of turns that ended in ERROR."
        self._token = self._histogram("time_per_output_token", mean, TOKEN_S)

    def know(self, engine: str) -> None:
        """Count from zero for an engine that may not have run a turn yet."""
        for reason in FinishReason:
            self._turns.labels(engine, reason.value)
        of_tokens = (self._prompt, self._generated, self._evicted, self._recalled, self._drafted, self._accepted)
        for metric in of_tokens:
            metric.labels(engine)

    def turn_ended(self, session: str, turn: str, engine: str, outcome: Outcome) -> None:
        """A turn on `engine` ended, and how it did is durable."""
        usage, error = outcome.usage, outcome.error
        cause = {} if error is None else {"cause": error.reason.value}
        facts = {"engine": engine, "reason": outcome.reason.value, "position": usage.position, **cause}
        log.info("turn.ended", session=session, turn=turn, **facts)
        if error is not None:
            self._errors.labels(engine, error.reason.value).inc()
        self._turns.labels(engine, outcome.reason.value).inc()
        self._prompt.labels(engine).inc(usage.prompt_tokens)
        self._generated.labels(engine).inc(usage.generated_tokens)
        self._evicted.labels(engine).inc(usage.evicted_tokens)
        self._recalled.labels(engine).inc(usage.recalled_tokens)
        self._drafted.labels(engine).inc(usage.drafted_tokens)
        self._accepted.labels(engine).inc(usage.accepted_tokens)
        self._queue.labels(engine).observe(outcome.timing.queue_s)
        if outcome.reason is not FinishReason.ERROR:
            self._time(engine, outcome)

    def form_ended(self, engine: str, form: str, *, matched: bool) -> None:
        """A turn on `engine` ended whose reply was to have a form."""
        self._forms.labels(engine, form, str(matched).lower()).inc()

    def _time(self, engine: str, outcome: Outcome) -> None:
        usage, timing = outcome.usage, outcome.timing
        if usage.prompt_tokens:
            self._prefill.labels(engine).observe(timing.prefill_s)
        if usage.generated_tokens:
            self._first_token.labels(engine).observe(timing.first_token_s)
        if usage.generated_tokens > 1:
            self._token.labels(engine).observe(timing.decode_s / (usage.generated_tokens - 1))

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"sinkserve_runtime_{name}", what, (*_ENGINE, *labels), registry=self.registry)

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        full = f"sinkserve_runtime_{name}_seconds"
        return Histogram(full, what, _ENGINE, buckets=bounds, registry=self.registry)
