"""A signature holds for an engine under any name and version, for nothing else, and by trusted keys alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.signer import CryptoSigner

from common.catalog.signature import KeyFileError, check_signature, read_signer, read_trusted_key, sign_manifest
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import Manifest
from tests.samples.drafts import draft
from tests.samples.identity.keys import read_public

KEY = Ed25519PrivateKey.generate()
ENGINE = draft()


@pytest.mark.parametrize(
    "key",
    [
        Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["Ed25519", "ECDSA", "RSA"],
)
def test_what_a_key_signed_is_trusted_by_its_public_half(key: Any, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    check_signature(ENGINE, sign_manifest(ENGINE, read_signer(private)), [read_trusted_key(public)])


def test_it_holds_under_another_name_and_version(tmp_path: Path) -> None:
    signature = sign_manifest(ENGINE, CryptoSigner(KEY))
    spec = ENGINE.spec.model_copy(update={"name": "other"})
    moved = ENGINE.model_copy(update={"name": "other", "version": 7, "spec": spec})
    check_signature(moved, signature, [read_public(KEY, tmp_path)])


@pytest.mark.parametrize(
    "changed",
    [
        draft(files={"model.onnx": b"another graph"}),
        ENGINE.model_copy(update={"end_token_ids": (2,)}),
        ENGINE.model_copy(update={"tolerance": 1.0}),
        ENGINE.model_copy(update={"spec": ENGINE.spec.model_copy(update={"chat_template": "none"})}),
    ],
)
def test_it_holds_for_nothing_else(changed: Manifest, tmp_path: Path) -> None:
    signature = sign_manifest(ENGINE, CryptoSigner(KEY))
    with pytest.raises(FailedPrecondition, match="is that of another engine") as raised:
        check_signature(changed, signature, [read_public(KEY, tmp_path)])
    assert raised.value.reason is Reason.ENGINE_UNTRUSTED


def test_a_key_that_nobody_trusts_vouches_for_nothing(tmp_path: Path) -> None:
    signature = sign_manifest(ENGINE, CryptoSigner(Ed25519PrivateKey.generate()))
    with pytest.raises(FailedPrecondition, match="none of SINKSERVE_RUNTIME_TRUSTED_KEYS has signed it"):
        check_signature(ENGINE, signature, [read_public(KEY, tmp_path)])


def _other_payload(envelope: Any) -> None:
    envelope["payload"] = base64.b64encode(b'{"subject": []}').decode()


def _other_type(envelope: Any) -> None:
    envelope["payloadType"] = "text/plain"


def _no_signatures(envelope: Any) -> None:
    envelope["signatures"] = []


@pytest.mark.parametrize("edit", [_other_payload, _other_type, _no_signatures])
def test_an_envelope_that_was_changed_vouches_for_nothing(edit: Callable[[Any], None], tmp_path: Path) -> None:
    envelope = json.loads(sign_manifest(ENGINE, CryptoSigner(KEY)))
    edit(envelope)
    with pytest.raises(FailedPrecondition, match="is not trusted here"):
        check_signature(ENGINE, json.dumps(envelope), [read_public(KEY, tmp_path)])


@pytest.mark.parametrize("signature", ["", "rubbish", "[]", "{}", '{"payload": 1}'])
def test_what_is_no_signature_vouches_for_nothing(signature: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="demo@0 is not trusted here"):
        check_signature(ENGINE, signature, [read_public(KEY, tmp_path)])


@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nMC4CAQ", None])
def test_a_file_without_a_key_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    for read in (read_signer, read_trusted_key):
        with pytest.raises(KeyFileError, match=r"key\.pem has no (private|public) key in PEM"):
            read(path)
