"""Defaults, then the file, then the environment; a bad value names its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from common.settings import HostPort, Settings, SettingsError, SharedSettings, read_config


class _Example(Settings):
    model_config = SettingsConfigDict(env_prefix="SINKSERVE_EXAMPLE_")

    listen: HostPort = "127.0.0.1:50099"
    concurrency: int = 1


def test_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _Example.load({"concurrency": 2}) == _Example(concurrency=2)
    monkeypatch.setenv("SINKSERVE_EXAMPLE_CONCURRENCY", "3")
    assert _Example.load({"concurrency": 2}).concurrency == 3


@pytest.mark.parametrize("value", ["50051", "localhost:", ":1", "localhost:70000", "localhost:http"])
def test_a_bad_address_names_its_key(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SINKSERVE_EXAMPLE_LISTEN", value)
    with pytest.raises(SettingsError, match="SINKSERVE_EXAMPLE_LISTEN.*HOST:PORT"):
        _Example.load()


def test_an_unknown_key_in_the_file_is_refused() -> None:
    with pytest.raises(SettingsError, match="SINKSERVE_EXAMPLE_LISTNE"):
        _Example.load({"listne": "127.0.0.1:1"})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        _Example().concurrency = 2  # type: ignore[misc]


def test_database_and_store_live_in_home_unless_said(tmp_path: Path) -> None:
    settings = SharedSettings.load({"home": str(tmp_path)})
    assert settings.database == f"sqlite:///{tmp_path}/sinkserve.db"
    assert settings.store == f"file://{tmp_path}/store"
    assert SharedSettings.load({"database_url": "postgresql://db/x"}).database == "postgresql://db/x"


def test_secrets_are_not_printed() -> None:
    settings = SharedSettings.load({"database_url": "postgresql://user:hunter2@db/x"})
    assert "hunter2" not in repr(settings)


def test_config_file_has_sections(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("home: /srv/sinkserve\nbuilder: {concurrency: 2}\n")
    assert read_config(path) == {
        "shared": {"home": "/srv/sinkserve"},
        "builder": {"concurrency": 2},
        "runtime": {},
    }


@pytest.mark.parametrize("text", ["- a list", "builder: 3", "{unclosed", "home: /a\nhome: /b"])
def test_a_config_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"config\.yaml"):
        read_config(path)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")


def test_home_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_HOME", "~/engines")
    assert SharedSettings.load().home == Path.home() / "engines"
