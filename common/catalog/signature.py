"""Who vouches for an engine: a signature of all that its manifest says, its files' digests among it.

But not of its name and version, which another catalog may give it anew. The signature is a DSSE envelope around an
in-toto statement, as for other artifacts of a supply chain; keys are PEM files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from common.digest import digest_of
from common.errors import FailedPrecondition, Reason
from common.spec.manifest import Manifest

PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://sinkserve.dev/engine/v1"


class KeyFileError(ValueError):
    """A file holds no key that can be used; the text says which, and why."""


def read_signer(path: Path) -> Signer:
    """The private key in a PEM file (Ed25519, ECDSA or RSA), not encrypted. Raises KeyFileError."""
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} has no private key in PEM that could be read: {error}") from None


def read_trusted_key(path: Path) -> SSlibKey:
    """The public key in a PEM file. Raises KeyFileError."""
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} has no public key in PEM that could be read: {error}") from None


def content_digest(manifest: Manifest) -> str:
    """sha256, in hex, of a manifest without the names that a catalog gives.

    Defaults are left out, so that a release with more fields finds the same.
    """
    data = manifest.model_dump(
        mode="json", exclude_defaults=True, exclude={"name": True, "version": True, "spec": {"name"}}
    )
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_of(text.encode()).removeprefix("sha256:")


def sign_manifest(manifest: Manifest, signer: Signer) -> str:
    """The envelope, as JSON, that vouches for the engine of a manifest."""
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": "engine", "digest": {"sha256": content_digest(manifest)}}],
        "predicateType": _PREDICATE,
        "predicate": {},
    }
    envelope = Envelope(json.dumps(statement, sort_keys=True).encode(), PAYLOAD, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict())


def is_of(manifest: Manifest, signature: str) -> bool:
    """Whether a signature says that it is of this engine, whoever's it is."""
    try:
        return _says(Envelope.from_dict(json.loads(signature)), manifest)
    except _UNREADABLE:
        return False


def check_signature(manifest: Manifest, signature: str, trusted: Sequence[SSlibKey]) -> None:
    """Raise FailedPrecondition (ENGINE_UNTRUSTED) unless one of the `trusted` keys vouches for this engine."""
    if not signature:
        raise _untrusted(manifest.reference, "it is not signed; build it with SINKSERVE_BUILDER_SIGNING_KEY")
    try:
        envelope = Envelope.from_dict(json.loads(signature))
        envelope.verify(list(trusted), 1)
        right = _says(envelope, manifest)
    except (UnverifiedSignatureError, VerificationError):
        raise _untrusted(manifest.reference, "none of SINKSERVE_RUNTIME_TRUSTED_KEYS has signed it") from None
    except _UNREADABLE as error:
        raise _untrusted(manifest.reference, f"its signature cannot be read: {error}") from None
    if not right:
        raise _untrusted(manifest.reference, "its signature is that of another engine")


_UNREADABLE = (AttributeError, FormatError, KeyError, TypeError, ValueError, RecursionError)


def _says(envelope: Envelope, manifest: Manifest) -> bool:
    subjects = [each["digest"].get("sha256") for each in json.loads(envelope.payload)["subject"]]
    return bool(envelope.payload_type == PAYLOAD) and subjects == [content_digest(manifest)]


def _untrusted(reference: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.ENGINE_UNTRUSTED, f"{reference} is not trusted here: {why}", engine=reference)
