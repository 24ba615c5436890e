"""What is drawn: sessions, where they are asked for, and which of them."""

from __future__ import annotations

from hypothesis import strategies as st

from runtime_service.domain.durability import Durability
from runtime_service.domain.session import NewSession, OnDisconnect, OnFull, SessionOptions

IDS = ("a", "b", "c", "d")
FORKS = ("b", "x", "y")
ids, forks = st.sampled_from(IDS), st.sampled_from(FORKS)
anywhere = st.booleans()
index = st.integers(0, 5)
VARIANTS = tuple(
    NewSession(
        "demo",
        options=SessionOptions(
            on_disconnect=OnDisconnect.CONTINUE if goes_on else OnDisconnect.CANCEL,
            durability=kept,
            delete_after_idle_s=s,
            on_full=on_full,
        ),
    )
    for goes_on, kept, s, on_full in (
        (False, Durability.TOKENS, None, OnFull.EVICT),
        (True, Durability.TOKENS_AND_KV, None, OnFull.NOTIFY),
        (True, Durability.TOKENS, 1000.0, OnFull.NOTIFY),
        (False, Durability.TOKENS_AND_KV, 1000.0, OnFull.EVICT),
    )
)
