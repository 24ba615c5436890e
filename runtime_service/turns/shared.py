"""What all sessions of a runtime use together."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.tracing.traces import NoTraces, Traces
from runtime_service.domain.turn_counts import TurnCounts
from runtime_service.recall.ranking import Ranker, by_words
from runtime_service.settings import RuntimeSettings
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.quotas import QuotaChecks
from runtime_service.storage.recall.index import RecallIndex
from runtime_service.storage.recall.past_turns import PastTurns
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.updates import SessionUpdates
from runtime_service.tasks.background import Background, Writer
from runtime_service.turns.cache_tiers import CacheTiers
from runtime_service.turns.metrics import TurnMetrics
from runtime_service.turns.waiting_bytes import WaitingBytes


@dataclass(frozen=True)
class Shared:
    """What all sessions of a service share."""

    repository: SessionRepository
    claims: SessionClaims
    updates: SessionUpdates
    quotas: QuotaChecks
    writer: Writer
    background: Background
    caches: CacheTiers
    settings: RuntimeSettings
    recall_index: RecallIndex
    past_turns: PastTurns
    ranker: Ranker = by_words
    meter: TurnMetrics = field(default_factory=TurnMetrics)
    waiting: WaitingBytes = field(default_factory=WaitingBytes)
    turn_counts: TurnCounts = field(default_factory=TurnCounts)
    traces: Traces = field(default_factory=NoTraces)
