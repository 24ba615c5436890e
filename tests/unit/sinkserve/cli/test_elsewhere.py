"""Commands for checkpoints that are not in a folder here, and builders that are on another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from common.spec.model_spec import Source
from common.spec.yaml_file import read_spec_file
from sinkserve.cli.app import make_app
from sinkserve.cli.build.submit import check_reachable, is_local, readable_roots
from sinkserve.cli.services.embedded import _roots
from sinkserve.cli.terminal.failures import Failure
from sinkserve.cli.terminal.suggest import engine_name, source_of
from tests.fakes.hub import FakeHub, fake_hub, files_of
from tests.samples.checkpoints import write_checkpoint

REMOTE = "builder.example.org:50061"


def sinkserve(*args: str) -> Result:
    return CliRunner().invoke(make_app(args), args, env={"COLUMNS": "300"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with fake_hub() as hub:
        monkeypatch.setenv("SINKSERVE_BUILDER_HUB_ENDPOINT", hub.address)
        hub.repository("org/Tiny").commit(files_of(write_checkpoint(tmp_path / "model")))
        yield hub


def test_a_spec_for_the_hub_is_written_and_checked_without_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    ran = sinkserve("spec", "init", "hf://org/Tiny@main", "-o", str(spec))
    assert ran.exit_code == 0, ran.output
    read = read_spec_file(spec)
    assert (read.name, read.source) == ("tiny", Source(uri="hf://org/Tiny@main"))
    assert "# the builder fetches it" in spec.read_text()
    ran = sinkserve("spec", "check", str(spec))
    assert ran.exit_code == 0, ran.output
    assert "the spec is good · its weights are read when it is built" in ran.stdout
    assert not any(name.endswith(".safetensors") for name in hub.downloads())


def test_a_spec_may_have_the_revision_in_a_field_of_its_own(hub: FakeHub, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: tiny\nsource: {uri: hf://org/Tiny, revision: main}\ncache: {window_tokens: 60}\n")
    ran = sinkserve("spec", "check", str(spec))
    assert ran.exit_code == 0, ran.output
    assert "hf://org/Tiny@main" in ran.stdout
    ran = sinkserve("spec", "check", str(spec), "--set", "source.revision=v9")
    assert (ran.exit_code, "has no revision 'v9'" in ran.stderr) == (4, True)


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_BUILDER_SOURCE_ROOTS", "ftp://x")
    ran = sinkserve("spec", "init", "hf://org/Tiny")
    assert (ran.exit_code, "SINKSERVE_BUILDER_SOURCE_ROOTS" in ran.stderr) == (2, True)


@pytest.mark.parametrize("as_path", [False, True])
def test_a_folder_here_is_not_sent_to_a_builder_elsewhere(tmp_path: Path, as_path: bool) -> None:
    folder = write_checkpoint(tmp_path / "model")
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"name: tiny\nsource: {{uri: {folder if as_path else './model'}}}\ncache: {{window_tokens: 60}}\n")
    ran = sinkserve("build", str(spec), "--builder", REMOTE)
    assert (ran.exit_code, ran.stdout) == (2, "")
    said = " ".join(ran.stderr.split())
    assert f"{folder} is a folder on this machine, and the builder at {REMOTE} is on another" in said
    assert all(way in said for way in ("hf://ORG/REPO", "s3://BUCKET/PREFIX", "file:///PATH", "--set source.uri="))


@pytest.mark.parametrize("uri", ["hf://org/model", "s3://bucket/model", "file:///models/demo"])
def test_what_is_not_a_path_is_for_the_builder_to_find(uri: str) -> None:
    check_reachable(Source(uri=uri), REMOTE)


def test_a_builder_on_this_machine_reads_its_paths() -> None:
    check_reachable(Source(uri="/models/demo"), "127.0.0.1:50061")
    with pytest.raises(Failure):
        check_reachable(Source(uri="/models/demo"), REMOTE)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("unix:/run/builder.sock", True),
        ("unix:///run/builder.sock", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("dns:///builder:1", False),
        ("127.0.0.1.example.org:1", False),
        ("[fe80::1]:1", False),
    ],
)
def test_an_address_tells_whether_it_is_of_this_machine(address: str, local: bool) -> None:
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("hf://org/TinyLlama-1.1B@main", "tinyllama-1.1b"),
        ("s3://bucket/models/Demo/", "demo"),
        ("s3://bucket", "bucket"),
    ],
)
def test_engines_are_named_after_repositories_and_prefixes(where: str, name: str) -> None:
    assert engine_name(source_of(where)) == name


@pytest.mark.parametrize(
    ("uri", "root"),
    [("hf://org/model@main", "hf://org/model"), ("s3://bucket/a/", "s3://bucket/a"), ("/a", Path("/a"))],
)
def test_a_run_lets_its_builder_read_just_what_it_is_for(uri: str, root: Path | str) -> None:
    assert readable_roots(Source(uri=uri)) == (root,)


def test_and_its_adapter() -> None:
    assert readable_roots(Source(uri="/a", adapter="hf://org/tuned@main")) == (Path("/a"), "hf://org/tuned")
    with pytest.raises(Failure, match="/b is a folder on this machine") as caught:
        check_reachable(Source(uri="hf://org/a", adapter="/b"), REMOTE)
    assert "--set source.adapter=" in str(caught.value.hint)


def test_an_embedded_builder_keeps_all_its_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_BUILDER_SOURCE_ROOTS", f"{tmp_path},hf://org")
    assert _roots(("s3://bucket/a",)) == f"{tmp_path},hf://org,s3://bucket/a"
    assert _roots((tmp_path / "a",)) == f"{tmp_path},hf://org,{tmp_path / 'a'}"
