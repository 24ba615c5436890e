"""Finds the turns that may be recalled for a question."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from runtime_service.domain.session import Session
from runtime_service.recall.ranking import Candidate, candidates
from runtime_service.recall.shortlist import shortlist
from runtime_service.recall.words import asked_words
from runtime_service.storage.recall.index import RecallIndex


def find(
    index: RecallIndex, session: Session, said: Iterable[str], before: int, seen: Collection[int] = ()
) -> list[Candidate]:
    """Turns for what is `said`, the best first, of those that began before a position and are not `seen`. Blocks."""
    asked = asked_words(said)
    with index.reading(session) as reader:
        found = reader.search(asked, before)
        numbers = shortlist(found, seen)
        read = reader.entries(numbers) if numbers else []
    return candidates(found, asked, read, seen) if read else []
