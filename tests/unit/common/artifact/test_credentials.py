"""Docker's configuration, as it is found on people's machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.artifact.errors import RegistryRefused
from common.artifact.registry.credentials import NOBODY, Credentials, credentials_for
from common.artifact.registry.settings import RegistrySettings

ANN = Credentials("ann", "sesame:open")
AUTH = "YW5uOnNlc2FtZTpvcGVu"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def found(host: str = "registry.example.com") -> Credentials:
    return credentials_for(host, RegistrySettings())


@pytest.mark.parametrize("name", ["registry.example.com", "https://registry.example.com/v2/", "registry.example.com/"])
def test_entries_are_hosts_or_urls(config: Path, name: str) -> None:
    config.write_text(json.dumps({"auths": {"other.example.com": {"auth": "?"}, name: {"auth": AUTH}}}))
    assert found() == ANN
    assert found("third.example.com") == NOBODY


def test_dockers_own_registry_has_another_name_there(config: Path) -> None:
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}))
    assert found("registry-1.docker.io") == ANN


def test_an_identity_token_is_taken(config: Path) -> None:
    config.write_text(json.dumps({"auths": {"registry.example.com": {"identitytoken": "abc"}}}))
    assert (found().identity_token, found().basic) == ("abc", "")


def test_nobody_is_known_without_a_file(config: Path) -> None:
    assert not config.exists()
    assert found() == NOBODY


@pytest.mark.parametrize("data", ["[", [], {"auths": []}, {"auths": {"registry.example.com": {"auth": "?"}}}])
def test_a_file_that_cannot_be_read_is_named_without_its_secrets(config: Path, data: Any) -> None:
    config.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(RegistryRefused, match=r"config\.json cannot be read"):
        found()


def test_a_helper_that_is_not_there_is_named(config: Path) -> None:
    config.write_text(json.dumps({"credsStore": "nowhere"}))
    with pytest.raises(RegistryRefused, match="docker-credential-nowhere"):
        found()


def test_secrets_are_not_shown() -> None:
    assert "sesame" not in repr(ANN)
