"""What may be changed of a session after it was created. Plain data and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from runtime_service.domain.session import IDLE_FIELD, Session, check_idle, check_labels

LABELS_FIELD = "labels"


@dataclass(frozen=True)
class SessionUpdate:
    """New values of the fields that `paths` names, LABELS_FIELD and IDLE_FIELD; the others are ignored."""

    paths: frozenset[str]
    labels: Mapping[str, str]
    delete_after_idle_s: float | None

    def check(self) -> None:
        """Raise InvalidArgument for what no session may have."""
        if LABELS_FIELD in self.paths:
            check_labels(self.labels, f"session.{LABELS_FIELD}")
        if IDLE_FIELD in self.paths:
            check_idle(self.delete_after_idle_s, f"session.{IDLE_FIELD}")

    def apply(self, session: Session, now: datetime, *, busy: bool) -> Session:
        """The session with the new values; its time runs anew from `now`, unless it is `busy`."""
        if LABELS_FIELD in self.paths:
            session = replace(session, labels=dict(self.labels))
        if IDLE_FIELD in self.paths:
            session = replace(session, options=replace(session.options, delete_after_idle_s=self.delete_after_idle_s))
            session = replace(session, expires_at=None if busy else session.expiry(now))
        return session
