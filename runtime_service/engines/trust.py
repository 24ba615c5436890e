"""Loads no engine but those that somebody trusted has signed, where the settings name who that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from common.settings import SettingsError
from common.spec.published_engine import PublishedEngine

L = TypeVar("L")
_SETTING = "SINKSERVE_RUNTIME_TRUSTED_KEYS"


def trusting(load: Callable[[PublishedEngine], L], keys: Sequence[Path]) -> Callable[[PublishedEngine], L]:
    """`load`, for engines that one of the `keys` vouches for; without keys, for all.

    Raises SettingsError for a file that holds no key. What is loaded otherwise raises FailedPrecondition
    (ENGINE_UNTRUSTED), and nothing of it is fetched.
    """
    if not keys:
        return load
    from common.catalog.signature import KeyFileError, check_signature, read_trusted_key  # noqa: PLC0415 - for this alone

    try:
        trusted = [read_trusted_key(path) for path in keys]
    except KeyFileError as error:
        raise SettingsError(f"{_SETTING}: {error}") from None

    def load_trusted(published: PublishedEngine) -> L:
        check_signature(published.manifest, published.signature, trusted)
        return load(published)

    return load_trusted
