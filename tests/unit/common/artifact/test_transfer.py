"""An engine leaves a catalog whole, enters another whole, and nothing that is damaged or hostile does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from common.artifact.errors import NotAnEngine
from common.artifact.model_pack import ARTIFACT, CONFIG, FILE, MANIFEST_FILE, SIGNATURE_FILE
from common.artifact.oci_layout import OciLayout
from common.artifact.transfer import export_engine, import_engine
from common.auth.principal import LOCAL_PRINCIPAL
from common.catalog.signature import check_signature, sign_manifest
from common.db.paging import Page
from common.digest import digest_hex, digest_of
from common.errors import InvalidArgument
from common.spec.published_engine import PublishedEngine
from tests.samples.drafts import Press, draft
from tests.samples.identity.keys import read_public

FILES = {"model.onnx": b"graph", "weights/0.bin": b"weights", "copy.bin": b"weights"}
Edit = Callable[[Any], None]


@pytest.fixture
def exported(press: Press, tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    export(press, press.publish(files=FILES), folder)
    return folder


def export(press: Press, engine: PublishedEngine, folder: Path) -> None:
    layout = OciLayout(folder)
    layout.create()
    export_engine(engine, press.store, layout)


def take(press: Press, folder: Path) -> PublishedEngine:
    return import_engine(OciLayout(folder), press.database, press.catalog, press.store, LOCAL_PRINCIPAL)


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest_hex(digest)


def artifact_of(folder: Path) -> Any:
    (described,) = json.loads((folder / "index.json").read_text())["manifests"]
    return json.loads(blob(folder, described["digest"]).read_text())


def rewrite(folder: Path, edit: Edit) -> None:
    """Change the OCI manifest, and name it anew."""
    artifact = artifact_of(folder)
    edit(artifact)
    data = json.dumps(artifact).encode()
    blob(folder, digest_of(data)).write_bytes(data)
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": digest_of(data)}]}))


def rewrite_manifest(folder: Path, edit: Edit) -> None:
    """Change the engine's own manifest, and name it anew."""

    def change(artifact: Any) -> None:
        (layer,) = [each for each in artifact["layers"] if each["annotations"][FILE] == MANIFEST_FILE]
        manifest = json.loads(blob(folder, layer["digest"]).read_text())
        edit(manifest)
        data = json.dumps(manifest).encode()
        blob(folder, digest_of(data)).write_bytes(data)
        layer |= {"digest": digest_of(data), "size": len(data)}

    rewrite(folder, change)


def test_an_engine_arrives_with_all_its_files(exported: Path, other_press: Press) -> None:
    engine = take(other_press, exported)
    assert engine.reference == "demo@1"
    assert {file.path: file.digest for file in engine.manifest.files} == {
        path: digest_of(data) for path, data in FILES.items()
    }
    other_press.catalog.verify(engine.reference)


def test_it_is_taken_once_and_gets_the_next_version_of_its_name(exported: Path, other_press: Press) -> None:
    other_press.publish(files={"model.onnx": b"another"}, build_key=digest_of(b"another"))
    assert [take(other_press, exported).reference for _ in range(2)] == ["demo@2", "demo@2"]


def test_the_folder_is_what_registries_take(exported: Path) -> None:
    assert json.loads((exported / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    artifact = artifact_of(exported)
    assert artifact["artifactType"] == ARTIFACT
    assert artifact["config"]["mediaType"] == CONFIG
    config = json.loads(blob(exported, artifact["config"]["digest"]).read_text())
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in artifact["layers"]]
    for described in (artifact["config"], *artifact["layers"]):
        data = blob(exported, described["digest"]).read_bytes()
        assert (digest_of(data), len(data)) == (described["digest"], described["size"])


def test_a_signature_goes_along_and_holds_under_another_version(
    press: Press, other_press: Press, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    engine = press.publish(files=FILES, signature=sign_manifest(draft(files=FILES), CryptoSigner(key)))
    export(press, engine, tmp_path / "signed")
    assert SIGNATURE_FILE in str(artifact_of(tmp_path / "signed"))
    other_press.publish(files={"model.onnx": b"another"}, build_key=digest_of(b"another"))
    taken = take(other_press, tmp_path / "signed")
    assert taken.reference == "demo@2"
    check_signature(taken.manifest, taken.signature, [read_public(key, tmp_path)])


@pytest.mark.parametrize("of", [b"another graph", None])
def test_what_is_no_signature_of_the_engine_is_refused(
    press: Press, other_press: Press, tmp_path: Path, of: bytes | None
) -> None:
    other = draft(files={"model.onnx": of or b""})
    signature = "a" * 100 if of is None else sign_manifest(other, CryptoSigner(Ed25519PrivateKey.generate()))
    export(press, press.publish(files=FILES, signature=signature), tmp_path / "signed")
    with pytest.raises(NotAnEngine, match=r"signature\.dsse\.json is no signature of this engine"):
        take(other_press, tmp_path / "signed")


def test_an_owner_that_nobody_can_be_is_refused(exported: Path, other_press: Press) -> None:
    with pytest.raises(InvalidArgument, match="owner"):
        import_engine(OciLayout(exported), other_press.database, other_press.catalog, other_press.store, "a\x1b")


@pytest.mark.parametrize("path", ["model.onnx", "weights/0.bin", MANIFEST_FILE])
def test_a_damaged_file_is_refused_and_nothing_is_published(exported: Path, other_press: Press, path: str) -> None:
    (layer,) = [each for each in artifact_of(exported)["layers"] if each["annotations"][FILE] == path]
    blob(exported, layer["digest"]).chmod(0o600)
    blob(exported, layer["digest"]).write_bytes(b"something else")
    with pytest.raises(NotAnEngine):
        take(other_press, exported)
    assert other_press.catalog.list(Page(10, None, "engines")) == ([], "")


@pytest.mark.parametrize("path", ["model.onnx", MANIFEST_FILE])
def test_a_missing_blob_is_named(exported: Path, other_press: Press, path: str) -> None:
    (layer,) = [each for each in artifact_of(exported)["layers"] if each["annotations"][FILE] == path]
    blob(exported, layer["digest"]).unlink()
    with pytest.raises(NotAnEngine, match="missing"):
        take(other_press, exported)


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside", ""])
def test_a_path_that_leads_outside_is_refused(exported: Path, other_press: Press, path: str) -> None:
    rewrite_manifest(exported, lambda manifest: manifest["files"][0].update(path=path))
    with pytest.raises(NotAnEngine, match="is no path inside an engine"):
        take(other_press, exported)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda artifact: artifact.update(artifactType="application/x"), "its artifactType is 'application/x'"),
        (lambda artifact: artifact.update(layers=[]), "it has no manifest.json"),
        (lambda artifact: artifact.pop("layers"), "its OCI manifest cannot be read"),
        (lambda artifact: artifact["layers"][0].update(digest="../../etc"), "is no digest"),
        (lambda artifact: artifact["layers"].pop(0), "is not among its layers"),
        (lambda artifact: artifact["layers"][0]["annotations"].update({FILE: ["a"]}), "is no path"),
    ],
)
def test_what_is_no_engine_is_refused(exported: Path, other_press: Press, edit: Edit, message: str) -> None:
    rewrite(exported, edit)
    with pytest.raises(NotAnEngine, match=message):
        take(other_press, exported)


def test_a_field_that_this_release_does_not_know_is_told(exported: Path, other_press: Press) -> None:
    rewrite_manifest(exported, lambda manifest: manifest.update(format=2))
    with pytest.raises(NotAnEngine, match="format: .* was it written by a newer release"):
        take(other_press, exported)


@pytest.mark.parametrize(
    "text", [None, "", "[]", "[" * 100_000, '{"manifests": []}', '{"manifests": [{"digest": "sha256:00"}]}']
)
def test_another_folder_is_refused(tmp_path: Path, other_press: Press, text: str | None) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(NotAnEngine, match="this is no engine"):
        take(other_press, tmp_path)


def test_another_size_than_the_manifest_says_is_refused(exported: Path, other_press: Press) -> None:
    rewrite_manifest(exported, lambda manifest: manifest["files"][0].update(size_bytes=-1))
    with pytest.raises(NotAnEngine, match="manifest.json says -1"):
        take(other_press, exported)


def test_a_pipe_is_not_waited_for(exported: Path, other_press: Press) -> None:
    (exported / "index.json").unlink()
    os.mkfifo(exported / "index.json")
    with pytest.raises(NotAnEngine, match="no such file"):
        take(other_press, exported)


def test_what_is_no_folder_and_cannot_be_one_is_refused(press: Press, tmp_path: Path) -> None:
    engine = press.publish(files=FILES)
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/nowhere/under")):
        with pytest.raises(InvalidArgument, match="cannot be made"):
            export(press, engine, place)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_with_something_in_it_is_left_alone(press: Press, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(InvalidArgument, match="is not empty"):
        export(press, press.publish(files=FILES), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept"]
