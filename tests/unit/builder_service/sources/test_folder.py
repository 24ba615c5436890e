from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from builder_service.checkpoint.folder import TEXT_FILES, text_files
from builder_service.pipeline.resolve import resolve_source
from builder_service.settings import BuilderSettings
from builder_service.sources.folder import check_files, check_unchanged, find_file, find_folder, hash_files
from builder_service.sources.uri import source_path
from common.digest import digest_of
from common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from common.settings import SettingsError
from tests.samples import not_files
from tests.samples.checkpoints import write_checkpoint
from tests.unit.builder_service.pipeline.builds import order
from tests.unit.builder_service.pipeline.listener import Listener


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/models/demo", "/models/demo"),
        ("file:///models/demo", "/models/demo"),
        ("file://localhost/models/a%20b", "/models/a b"),
    ],
)
def test_paths_and_file_urls_name_folders(uri: str, path: str) -> None:
    assert source_path(uri) == Path(path)


@pytest.mark.parametrize(
    "uri",
    [
        "model",
        "./model",
        "file:model",
        "file://other/model",
        "hf://a/b",
        "https://x/y",
        "/a\0b",
        "file:",
        "file:///a%00b",
        "http://[",
    ],
)
def test_anything_else_is_an_invalid_spec(uri: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        source_path(uri)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.violations[0].field == "spec.source.uri"


def test_a_folder_under_a_root_is_found(root: Path) -> None:
    assert find_folder(root / "model", [root]) == root / "model"
    assert find_folder(root / "model", [Path("/nowhere"), root]) == root / "model"
    assert find_folder(root, [root]) == root


def test_a_folder_outside_is_refused_and_the_roots_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=str(root)) as caught:
        find_folder(tmp_path, [root])
    assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED


def test_nobody_learns_what_exists_outside(root: Path, tmp_path: Path) -> None:
    for name in ("root", "nothing", "root2"):
        (tmp_path / "root2").mkdir(exist_ok=True)
        with pytest.raises(InvalidArgument) as caught:
            find_folder(tmp_path / name, [root / "model"])
        assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED


def test_dots_do_not_lead_out(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="source roots"):
        find_folder(Path(f"{root}/model/../../"), [root])


def test_a_folder_whose_name_only_begins_like_a_root_is_outside(root: Path) -> None:
    (root.parent / "root-too").mkdir()
    with pytest.raises(InvalidArgument, match="source roots"):
        find_folder(root.parent / "root-too", [root])


def test_links_are_followed_before_anything_is_decided(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root / "model")
    assert find_folder(tmp_path / "link", [root]) == root / "model"
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(InvalidArgument, match="source roots"):
        find_folder(root / "out", [root])


def test_a_cache_made_of_links_works(root: Path) -> None:
    """As Hugging Face's: the snapshot's files are links to blobs beside it."""
    (root / "blobs").mkdir()
    (root / "blobs" / "abc").write_text("{}")
    (root / "model" / "tokenizer.json").symlink_to("../blobs/abc")
    folder = find_folder(root / "model", [root])
    assert hash_files(list(text_files(folder)), lambda _: None)[0].digest == digest_of(b"{}")


def test_a_file_that_links_out_is_refused(root: Path) -> None:
    (root / "model" / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json is outside"):
        find_folder(root / "model", [root])


@pytest.mark.parametrize("name", ["weights", "tokenizer.model.v3"])
def test_a_file_of_any_name_that_links_out_is_refused_before_it_is_read(root: Path, name: str) -> None:
    """An index may name any file as weights; it is told from what is outside, also from one that cannot be parsed."""
    model, secret = write_checkpoint(root / "whole"), root.parent / "secret"
    with safe_open(model / "model.safetensors", "numpy") as weights:
        index = {"weight_map": dict.fromkeys(weights.keys(), "weights")}
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    asked = order(model)
    assert {file.path.name for file in resolve_source(asked, Listener()).files} >= {"weights", "config.json"}
    (model / name).unlink(missing_ok=True)
    secret.write_text("the password is hunter2")
    (model / name).symlink_to(secret)
    with pytest.raises(InvalidArgument, match=f"{name} is outside the builder's source roots") as caught:
        resolve_source(asked, Listener())
    assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED


def test_a_file_that_is_exchanged_after_it_was_checked_is_refused_when_it_is_open(root: Path) -> None:
    """What is read is what was opened, whatever its name leads to by then."""
    secret = root.parent / "secret"
    secret.write_text("{}")
    config = root / "model" / "config.json"
    check_files([config], [root])
    config.unlink()
    config.symlink_to(secret)
    with pytest.raises(InvalidArgument, match=r"config\.json is outside"):
        hash_files([config], lambda _: None, [root])


@pytest.mark.parametrize("name", ["model/config.json", "nothing"])
def test_what_is_no_folder_is_not_found(root: Path, name: str) -> None:
    with pytest.raises(NotFound, match=name) as caught:
        find_folder(root / name, [root])
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND


def test_without_roots_nothing_is_allowed(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="SINKSERVE_BUILDER_SOURCE_ROOTS"):
        find_folder(root / "model", [])


def test_files_are_hashed_with_their_names_and_progress(root: Path) -> None:
    (root / "model" / "model.safetensors").write_bytes(b"1234567890")
    shares: list[float] = []
    paths = [root / "model" / "config.json", root / "model" / "model.safetensors"]
    config, weights = (file.as_engine_file for file in hash_files(paths, shares.append))
    assert (config.path, config.digest, config.media_type) == ("config.json", digest_of(b"{}"), "application/json")
    assert (weights.size_bytes, weights.media_type) == (10, "application/vnd.safetensors")
    assert shares == [2 / 12, 1.0]


@pytest.mark.parametrize("act", ["write", "replace", "touch"])
def test_a_file_that_changes_meanwhile_is_noticed(root: Path, act: str) -> None:
    path = root / "model" / "config.json"
    files = hash_files([path], lambda _: None)
    check_unchanged(files)
    if act == "write":
        path.write_text("{} ")
    elif act == "replace":
        (root / "new").write_text("[]")
        (root / "new").rename(path)
    else:
        os.utime(path, (1, 1))
    with pytest.raises(FailedPrecondition, match=r"config\.json was changed"):
        check_unchanged(files)


def test_a_file_that_vanishes_meanwhile_is_not_found(root: Path) -> None:
    files = hash_files([root / "model" / "config.json"], lambda _: None)
    files[0].path.unlink()
    with pytest.raises(NotFound, match=r"config\.json"):
        check_unchanged(files)


def test_roots_are_a_list_of_folders_with_links_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link").symlink_to(root / "model")
    monkeypatch.setenv("SINKSERVE_BUILDER_SOURCE_ROOTS", f"{root / 'link'}, /srv/models")
    assert BuilderSettings.load().roots == (root / "model", Path("/srv/models"))


def test_on_a_loopback_the_users_own_folders_are_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "/hub")
    assert BuilderSettings().roots == (tmp_path, Path.home().resolve(), Path("/hub"))
    assert BuilderSettings(listen="0.0.0.0:50061").roots == ()


@pytest.mark.parametrize(("key", "value"), [("CONCURRENCY", "0"), ("LISTEN", "50061"), ("CONCURRENCY", "many")])
def test_a_bad_setting_names_its_key(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SINKSERVE_BUILDER_{key}", value)
    with pytest.raises(SettingsError, match=f"SINKSERVE_BUILDER_{key}"):
        BuilderSettings.load()


def test_links_in_circles_are_not_found(root: Path) -> None:
    (root / "circle").symlink_to("circle")
    for uri in (root / "circle", root / "circle" / "model"):
        with pytest.raises(NotFound, match="does not exist") as caught:
            find_folder(uri, [root])
        assert caught.value.violations[0].field == "spec.source.uri"


def test_a_file_that_links_to_itself_is_left_to_who_reads_it(root: Path) -> None:
    (root / "model" / "tokenizer.json").symlink_to("tokenizer.json")
    folder = find_folder(root / "model", [root])
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json cannot be read: Too many levels"):
        list(text_files(folder))


@pytest.mark.parametrize("name", ["a" * 256, "a/" * 3000])
def test_a_name_that_is_too_long_is_not_found(root: Path, name: str) -> None:
    with pytest.raises(NotFound, match="does not exist") as caught:
        find_folder(root / name, [root])
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND


def test_a_folder_that_may_not_be_read_is_not_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(NotFound, match="not a folder that can be read"):
        find_folder(root / "model", [root])


@pytest.mark.parametrize("kind", not_files.KINDS)
@pytest.mark.parametrize("name", TEXT_FILES)
def test_what_is_not_a_file_is_refused_before_it_is_hashed(root: Path, name: str, kind: str) -> None:
    not_files.put(kind, root / "model" / name)
    with pytest.raises(InvalidArgument, match=f"/model/{name}") as caught:
        list(text_files(root / "model"))
    assert caught.value.reason is Reason.CHECKPOINT_INVALID


def test_a_gguf_file_is_found_with_all_its_parts(root: Path) -> None:
    first, second = (root / f"x-0000{part}-of-00002.gguf" for part in (1, 2))
    first.write_bytes(b"GGUF")
    with pytest.raises(NotFound, match="x-00002-of-00002.gguf does not exist"):
        find_file(first, [root])
    second.symlink_to("/etc/hostname")
    with pytest.raises(InvalidArgument, match="outside the builder's source roots"):
        find_file(first, [root])
    second.unlink()
    (root / "blob").write_bytes(b"GGUF")
    second.symlink_to("blob")  # as in the cache of the hub
    assert find_file(first, [root]) == first
    with pytest.raises(InvalidArgument, match="outside the builder's source roots"):
        find_file(root / ".." / "x.gguf", [root])
    with pytest.raises(NotFound, match="is not a file that can be read"):
        (root / "y.gguf").mkdir()
        find_file(root / "y.gguf", [root])
