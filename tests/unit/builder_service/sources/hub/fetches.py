"""What is asked of a hub that runs in this process."""

from __future__ import annotations

from builder_service.sources.hub import Hub, Snapshot
from builder_service.sources.uri import Remote, Repository
from tests.fakes.hub import FakeHub

EVERYTHING = ("hf://",)


def remote_of(hub: FakeHub, **changes: object) -> Remote:
    return Remote(hub_endpoint=hub.address, roots=EVERYTHING).model_copy(update=changes)


def fetch(hub: FakeHub, revision: str = "", **changes: object) -> Snapshot:
    return Hub(remote_of(hub, **changes)).fetch(Repository("org/model", revision), lambda line: None)
