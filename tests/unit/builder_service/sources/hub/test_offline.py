"""A hub that does not answer, or is not asked: what the cache has is used, or what helps is said."""

from __future__ import annotations

import pytest

from common.errors import FailedPrecondition, Unavailable
from tests.fakes.hub import FakeHub
from tests.unit.builder_service.sources.hub.fetches import fetch


@pytest.mark.parametrize("revision", ["", "main", "v1"])
def test_offline_what_was_downloaded_is_used(hub: FakeHub, files: dict[str, bytes], revision: str) -> None:
    hub.repository().branches["v1"] = hub.repository().commit(files)
    online = fetch(hub, revision)
    hub.requests.clear()
    assert fetch(hub, revision, hub_offline=True) == online
    assert fetch(hub, online.commit, hub_offline=True) == online
    assert hub.requests == []


def test_offline_without_a_cache_the_command_that_fills_it_is_named(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    with pytest.raises(FailedPrecondition, match="hf download org/model --revision v1") as caught:
        fetch(hub, "v1", hub_offline=True)
    assert "SINKSERVE_BUILDER_HUB_OFFLINE" in caught.value.message
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["*.safetensors", "tokenizer.json"])
def test_offline_with_half_a_cache_nothing_is_built(hub: FakeHub, files: dict[str, bytes], kind: str) -> None:
    hub.repository().commit(files)
    next(fetch(hub).folder.glob(kind)).unlink()
    with pytest.raises(FailedPrecondition, match="is not whole in"):
        fetch(hub, hub_offline=True)


def test_a_hub_that_does_not_answer_is_named_with_what_to_do(hub: FakeHub) -> None:
    with pytest.raises(Unavailable, match="SINKSERVE_BUILDER_HUB_OFFLINE=true") as caught:
        fetch(hub, hub_endpoint="http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in caught.value.message


def test_a_branch_is_never_taken_from_the_cache_because_the_hub_is_silent(
    hub: FakeHub, files: dict[str, bytes]
) -> None:
    hub.repository().commit(files)
    fetch(hub)
    with pytest.raises(Unavailable):
        fetch(hub, hub_endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_unavailable(hub: FakeHub, status: int) -> None:
    hub.status = status
    with pytest.raises(Unavailable, match=f"the hub answers {status}"):
        fetch(hub)
