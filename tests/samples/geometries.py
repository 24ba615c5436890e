"""Geometries and windows for hypothesis: small and odd, where off-by-one errors live."""

from __future__ import annotations

from hypothesis import strategies as st

from common.window import Geometry, SessionWindow


def geometries(*, slots: int = 3) -> st.SearchStrategy[Geometry]:
    return st.builds(
        Geometry,
        sinks=st.integers(0, 6),
        window=st.integers(1, 9),
        chunk=st.integers(1, 8),
        slots=st.just(slots),
    )


def windows(geometry: Geometry) -> st.SearchStrategy[SessionWindow]:
    """What a session may freeze in an engine of `geometry`."""
    return st.builds(SessionWindow, sinks=st.integers(0, geometry.sinks), window=st.integers(1, geometry.window))
