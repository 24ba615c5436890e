"""What the page is made of, by address."""

from __future__ import annotations

from starlette.routing import Route


def routes() -> list[Route]:
    """Routes of the page at `/`, and of what it asks for at `/api`."""
    return []
