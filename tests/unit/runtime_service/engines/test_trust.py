"""With trusted keys nothing else is loaded; without, everything is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from common.catalog.signature import sign_manifest
from common.db.database import utc_now
from common.errors import FailedPrecondition
from common.settings import SettingsError
from common.spec.published_engine import PublishedEngine
from runtime_service.engines.trust import trusting
from tests.samples.drafts import draft
from tests.samples.identity.keys import public_pem

KEY = Ed25519PrivateKey.generate()
UNSIGNED = PublishedEngine(draft(), "sha256:0", utc_now())
SIGNED = PublishedEngine(draft(), "sha256:0", utc_now(), signature=sign_manifest(draft(), CryptoSigner(KEY)))


def load(published: PublishedEngine) -> str:
    return published.reference


def test_only_what_is_signed_is_loaded(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(public_pem(KEY))
    trusted = trusting(load, [key])
    assert trusted(SIGNED) == "demo@0"
    with pytest.raises(FailedPrecondition, match="SINKSERVE_BUILDER_SIGNING_KEY"):
        trusted(UNSIGNED)


def test_without_keys_all_is_loaded() -> None:
    assert trusting(load, [])(UNSIGNED) == "demo@0"


def test_a_file_without_a_key_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SINKSERVE_RUNTIME_TRUSTED_KEYS: .*nothing\.pem has no public key"):
        trusting(load, [tmp_path / "nothing.pem"])
