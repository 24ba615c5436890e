"""Who may read what of a hub: tokens and gates, and what is not there or elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from builder_service.pipeline.messages import Order
from builder_service.sources.hub import Hub
from builder_service.sources.uri import Remote, Repository
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, Unavailable
from common.spec.model_spec import ModelSpec, Source
from tests.fakes.hub import FakeHub
from tests.unit.builder_service.sources.hub.fetches import fetch, remote_of

TOKEN = "hf_a_secret_nobody_should_read"


@pytest.mark.parametrize("name", ["org/none", "none/model"])
def test_a_repository_that_is_not_there_is_not_found(hub: FakeHub, files: dict[str, bytes], name: str) -> None:
    hub.repository().commit(files)
    with pytest.raises(
        NotFound, match=f"{name} does not exist, or is private and SINKSERVE_BUILDER_HUB_TOKEN"
    ) as caught:
        Hub(remote_of(hub)).fetch(Repository(name, ""), lambda line: None)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    assert caught.value.violations[0].field == "spec.source.uri"


def test_a_revision_that_is_not_there_is_not_found(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    with pytest.raises(NotFound, match="org/model has no revision 'v2'"):
        fetch(hub, "v2")


def test_the_token_opens_what_is_private(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    hub.repository().token = TOKEN
    with pytest.raises(NotFound, match="SINKSERVE_BUILDER_HUB_TOKEN"):
        fetch(hub)
    hub.requests.clear()
    fetch(hub, hub_token=SecretStr(TOKEN))
    assert {request.token for request in hub.requests} == {TOKEN}


def test_a_gate_says_where_to_ask_and_what_to_set(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository().commit(files)
    hub.repository().token, hub.repository().gated = TOKEN, True
    with pytest.raises(
        FailedPrecondition, match=r"org/model is gated: ask for access there, and set SINKSERVE_BUILDER"
    ):
        fetch(hub)


@pytest.mark.parametrize("cuts", [[], [0] * 100])
def test_the_token_is_in_no_log_and_no_error(
    hub: FakeHub,
    files: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    cuts: list[int],
) -> None:
    hub.repository().commit(files)
    hub.cuts = cuts
    remote = remote_of(hub, hub_token=SecretStr(TOKEN))
    lines: list[str] = []
    with caplog.at_level(logging.DEBUG):
        try:
            Hub(remote).fetch(Repository("org/model", ""), lines.append)
        except Unavailable as error:
            lines += [error.message, str(error.metadata)]
    printed = capfd.readouterr()
    assert TOKEN not in "".join([*lines, caplog.text, printed.out, printed.err, repr(remote)])
    assert "/resolve/" not in printed.err, "addresses of files can be signed"


def test_the_child_is_told_the_token_and_nobody_else(tmp_path: Path) -> None:
    remote = Remote(hub_token=SecretStr(TOKEN))
    spec = ModelSpec(name="demo", source=Source(uri="hf://org/model"))
    order = Order(spec=spec, work=tmp_path, source_roots=(), store_url="", remote=remote)
    assert TOKEN not in repr(order)
    assert Order.model_validate_json(order.model_dump_json()).remote == remote


@pytest.mark.parametrize("roots", [(), ("hf://other",), ("hf://org/other",), ("hf://or",), ("s3://org/model",)])
def test_what_is_under_no_root_is_not_even_asked_for(hub: FakeHub, roots: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="source roots") as caught:
        fetch(hub, roots=roots)
    assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED
    assert hub.requests == []


def test_a_repository_that_has_moved_has_to_be_allowed_where_it_is(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repository("elsewhere/model").commit(files)
    hub.renamed["org/model"] = "elsewhere/model"
    with pytest.raises(InvalidArgument, match="hf://elsewhere/model"):
        fetch(hub, roots=("hf://org",))
    assert hub.downloads() == []
