"""Keys of signatures, for tests."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SSlibKey

from common.catalog.signature import read_trusted_key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public(key: Ed25519PrivateKey, folder: Path) -> SSlibKey:
    path = folder / "trusted.pem"
    path.write_bytes(public_pem(key))
    return read_trusted_key(path)
