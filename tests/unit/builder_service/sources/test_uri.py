from __future__ import annotations

from pathlib import Path

import pytest

from builder_service.settings import BuilderSettings
from builder_service.sources.uri import Folder, Place, Prefix, Remote, Repository, read_place, read_root
from common.errors import InvalidArgument, Reason
from common.settings import SettingsError
from common.spec.model_spec import Source

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (Source(uri="/models/demo"), Folder(Path("/models/demo"))),
        (Source(uri="file:///models/a%20b"), Folder(Path("/models/a b"))),
        (Source(uri="hf://org/model"), Repository("org/model", "")),
        (Source(uri="hf://org/model@main"), Repository("org/model", "main")),
        (Source(uri="hf://org/Model-1.1_B@refs/pr/3"), Repository("org/Model-1.1_B", "refs/pr/3")),
        (Source(uri="hf://org/model", revision="v1.0"), Repository("org/model", "v1.0")),
        (Source(uri="hf://org/model@v1.0", revision="v1.0"), Repository("org/model", "v1.0")),
        (Source(uri="hf://org/model/q/x.Q4_K_M.gguf@v1"), Repository("org/model", "v1", "q/x.Q4_K_M.gguf")),
        (Source(uri="s3://bucket/a/b"), Prefix("s3://bucket/a/b")),
        (Source(uri="s3://bucket/a/x.gguf"), Prefix("s3://bucket/a", "x.gguf")),
        (Source(uri="gs://bucket/a//b/"), Prefix("gs://bucket/a/b")),
        (Source(uri="az://container"), Prefix("az://container")),
    ],
)
def test_sources_name_places(source: Source, place: Place) -> None:
    assert read_place(source) == place


@pytest.mark.parametrize(
    "uri",
    [
        "hf://org",
        "hf://org/",
        "hf://org/model/file",
        "hf://org/model/../x.gguf",
        "hf:///model",
        "hf://org/../x",
        "hf://org/-x",
        "hf://org/a--b",
        "hf://org/a..b",
        "hf://org/model?x=1",
        "s3://",
        "s3:///a",
        "s3://bucket/a/../b",
        "s3://bucket/a/%2e%2e/b",
        "s3://[",
        "S3://bucket/a",
        "https://example.org/model",
    ],
)
def test_what_names_no_place_is_an_invalid_spec(uri: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_place(Source(uri=uri))
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.violations[0].field == "spec.source.uri"


@pytest.mark.parametrize(
    ("uri", "revision", "said"),
    [
        ("hf://org/model@v1", "v2", "keep one"),
        ("hf://org/model@", "", "not a branch"),
        ("hf://org/model@../../x", "", "not a branch"),
        ("hf://org/model", "a..b", "not a branch"),
        ("hf://org/model", "-x", "not a branch"),
        ("hf://org/model", "/x", "not a branch"),
        ("/models/demo", "v1", "only hf:// has revisions"),
        ("s3://bucket/a", "v1", "only hf:// has revisions"),
    ],
)
def test_a_revision_that_cannot_be_is_named(uri: str, revision: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        read_place(Source(uri=uri, revision=revision))
    assert caught.value.violations[0].field == "spec.source.revision"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/a",
        f"s3://bucket/a?token={SECRET}",
        f"az://c/a?sig={SECRET}",
        f"ftp://me:{SECRET}@x/y",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_place(Source(uri=uri))
    assert SECRET not in f"{caught.value.message} {caught.value.metadata} {caught.value.violations}"


def test_credentials_belong_into_the_environment() -> None:
    with pytest.raises(InvalidArgument, match="credentials belong into the builder's environment"):
        read_place(Source(uri="s3://key:secret@bucket/a"))


@pytest.mark.parametrize(
    ("root", "allowed", "refused"),
    [
        ("hf://", ["hf://a/b", "hf://c/d@main"], ["s3://a/b"]),
        ("hf://org", ["hf://org/a"], ["hf://organisation/a", "hf://o/org"]),
        ("hf://org/", ["hf://org/a"], ["hf://organisation/a"]),
        ("hf://org/model", ["hf://org/model@v1"], ["hf://org/model2", "hf://org/mode"]),
        ("s3://bucket/a", ["s3://bucket/a", "s3://bucket/a/b"], ["s3://bucket/ab", "s3://bucket", "gs://bucket/a"]),
        ("s3://bucket", ["s3://bucket/x"], ["s3://bucket2/x"]),
    ],
)
def test_a_prefix_matches_at_the_borders_of_a_path(root: str, allowed: list[str], refused: list[str]) -> None:
    remote = Remote(roots=(str(read_root(root)),))
    for uri in allowed:
        remote.check_allowed(_elsewhere(uri))
    for uri in refused:
        with pytest.raises(InvalidArgument, match=f"source roots, which are {root.rstrip('/')}") as caught:
            remote.check_allowed(_elsewhere(uri))
        assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED


def test_without_prefixes_nothing_elsewhere_is_allowed() -> None:
    with pytest.raises(InvalidArgument, match="none for s3://; set SINKSERVE_BUILDER_SOURCE_ROOTS"):
        Remote().check_allowed(Prefix("s3://bucket/a"))


def _elsewhere(uri: str) -> Repository | Prefix:
    place = read_place(Source(uri=uri))
    assert not isinstance(place, Folder)
    return place


def test_roots_are_folders_and_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = f"{tmp_path}, hf://org/, file:///srv/models, s3://bucket/models/"
    monkeypatch.setenv("SINKSERVE_BUILDER_SOURCE_ROOTS", roots)
    settings = BuilderSettings.load()
    assert settings.roots == (tmp_path, Path("/srv/models"))
    assert settings.remote.roots == ("hf://org/", "s3://bucket/models")


@pytest.mark.parametrize(
    "root",
    [
        "ftp://x",
        "hf://org/model@main",
        "hf://a/b/c",
        "s3://",
        "s3://bucket/../x",
        "s3://key:secret@bucket",
        "~no-such-user/x",
    ],
)
def test_a_root_that_cannot_be_names_the_key(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_BUILDER_SOURCE_ROOTS", f"/models,{root}")
    with pytest.raises(SettingsError, match="SINKSERVE_BUILDER_SOURCE_ROOTS") as caught:
        BuilderSettings.load()
    assert "secret" not in str(caught.value)


def test_on_a_loopback_the_hub_is_a_root_and_object_stores_are_not() -> None:
    assert BuilderSettings().remote.roots == ("hf://",)
    assert BuilderSettings(listen="0.0.0.0:50061").remote.roots == ()


@pytest.mark.parametrize("url", ["huggingface.co", "ftp://x", "https://me:secret@hub", "https://"])
def test_an_endpoint_that_is_none_names_the_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_BUILDER_HUB_ENDPOINT", url)
    with pytest.raises(SettingsError, match="SINKSERVE_BUILDER_HUB_ENDPOINT") as caught:
        BuilderSettings.load()
    assert "secret" not in str(caught.value)


def test_the_settings_never_show_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_BUILDER_HUB_TOKEN", SECRET)
    settings = BuilderSettings.load()
    assert SECRET not in f"{settings!r} {settings.remote!r} {settings.model_dump()}"
    assert settings.remote.hub_token is not None
    assert settings.remote.hub_token.get_secret_value() == SECRET
