from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digest import digest_of
from common.errors import InvalidArgument, Reason
from common.spec.engine_reference import EngineReference, is_alias, parse_reference

DIGEST = digest_of(b"")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("demo", EngineReference("demo", alias="latest")),
        ("demo:latest", EngineReference("demo", alias="latest")),
        ("my-model_2.1:prod.eu", EngineReference("my-model_2.1", alias="prod.eu")),
        ("demo@1", EngineReference("demo", version=1)),
        (f"demo@{DIGEST}", EngineReference("demo", digest=DIGEST)),
    ],
)
def test_every_form_is_read(text: str, meant: EngineReference) -> None:
    assert parse_reference(text) == meant


@pytest.mark.parametrize("text", ["demo:prod", "demo@12", f"demo@{DIGEST}"])
def test_a_reference_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    ("text", "pinned"), [("demo", False), ("demo:prod", False), ("demo@3", True), (f"demo@{DIGEST}", True)]
)
def test_only_versions_and_digests_stay(text: str, pinned: bool) -> None:
    assert parse_reference(text).is_pinned is pinned


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Demo",
        "-demo",
        "a/b",
        "demo ",
        "demo\n",
        "demo:",
        "demo:12",
        "demo:UP",
        "demo@",
        "demo@0",
        "demo@01",
        "demo@-1",
        "demo@1.0",
        "demo@latest",
        "demo@sha256:12",
        f"demo@{DIGEST.upper()}",
        "demo@1:prod",
        "demo:prod@1",
        "d" * 64,
        "demo@" + "9" * 30,
        "demo@\u0661",
    ],
)
def test_rubbish_is_refused_with_the_field_and_the_forms(text: str) -> None:
    with pytest.raises(InvalidArgument, match="NAME@VERSION") as caught:
        parse_reference(text, "open.new_session.engine")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.violations[0].field == "open.new_session.engine"


@given(st.text())
def test_whatever_is_typed_is_a_reference_or_an_invalid_argument(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(("text", "fits"), [("prod", True), ("v1", True), ("2", False), ("", False), ("a b", False)])
def test_an_alias_never_looks_like_a_version(text: str, fits: bool) -> None:
    assert is_alias(text) is fits
