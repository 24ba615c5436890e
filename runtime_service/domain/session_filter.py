"""Which sessions to list. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from common.spec.engine_reference import EngineReference


@dataclass(frozen=True)
class SessionFilter:
    """Sessions that have all `labels`, in order, on an engine: of any version where its reference names none."""

    labels: tuple[tuple[str, str], ...] = ()
    engine: EngineReference | None = None


EVERY_SESSION = SessionFilter()
