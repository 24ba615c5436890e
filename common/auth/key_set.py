"""Public keys of an identity provider (JWKS): from a file, or fetched from a URL, bounded and cached."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
import structlog

from common.errors import Reason, Unavailable
from common.watched import Watched

FETCH_S, MOST_BYTES, MOST_KEYS = 5.0, 256 << 10, 100
AGAIN_S = 10.0
"""How often keys are fetched because a token names one that is not known, at most."""
OLDEST_S = 24 * 3600.0
"""Age at which keys that could not be fetched again are not believed any more."""

KeySet = Mapping[tuple[str | None, str], jwt.PyJWK]
"""Keys by key id and algorithm."""

log = structlog.get_logger()


def read_key_set(data: bytes, algorithms: Sequence[str]) -> KeySet:
    """The keys of a JWKS that verify signatures of `algorithms`; raises ValueError where there is none."""
    try:
        found = json.loads(data)["keys"]
        each = [dict(key) for key in found[:MOST_KEYS]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('it is no JWKS: {"keys": [...]}') from None
    keys = {}
    for key in each:
        for algorithm in algorithms:
            if (made := _make(key, algorithm)) is not None:
                keys[key.get("kid"), algorithm] = made
    if not keys:
        raise ValueError(f"it has no key for {', '.join(algorithms)}")
    return keys


def _make(key: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """None: the key is for something else."""
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return None
    try:
        return jwt.PyJWK(key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self, key_id: str | None) -> KeySet:
        """All keys; if `key_id` is not among those known, those of now. Raises Unavailable if there are none."""
        ...


class KeyFile:
    """A JWKS in a file, read again when it changes."""

    def __init__(self, setting: str, path: Path, algorithms: Sequence[str]) -> None:
        self._keys: Watched[KeySet] = Watched(setting, (path,), lambda data: read_key_set(data, algorithms))

    async def keys(self, _key_id: str | None) -> KeySet:
        """See `KeySource`."""
        return self._keys.value


class KeyUrl:
    """A JWKS at a URL: fetched when it is first needed, every `refresh_s`, and when a token names an unknown key."""

    def __init__(self, url: str, algorithms: Sequence[str], refresh_s: float) -> None:
        self._url = url
        self._algorithms = algorithms
        self._refresh_s = refresh_s
        self._keys: KeySet = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, key_id: str | None) -> KeySet:
        """See `KeySource`."""
        now = time.monotonic()
        known = bool(self._keys) if key_id is None else any(name == key_id for name, _ in self._keys)
        if now - self._fetched_at > self._refresh_s or not known:
            self._start(now)
        if self._fetching is not None and not known:
            await asyncio.shield(self._fetching)
        if not self._keys or now - self._fetched_at > OLDEST_S:
            what = "the keys of the identity provider cannot be had; the server's log says why"
            raise Unavailable(Reason.IDENTITY_PROVIDER_UNAVAILABLE, what, retry_after_s=AGAIN_S)
        return self._keys

    def _start(self, now: float) -> None:
        if self._fetching is None and now - self._tried_at >= AGAIN_S:
            self._tried_at = now
            self._fetching = asyncio.create_task(self._fetch(), name="fetch of keys")

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(_read_url, self._url, self._algorithms)
            self._fetched_at = time.monotonic()
        except (OSError, ValueError) as error:
            log.warning("auth.keys_not_fetched", url=self._url, cause=str(error), keys_kept=len(self._keys))
        finally:
            self._fetching = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """The answer is an error then."""


def _read_url(url: str, algorithms: Sequence[str]) -> KeySet:
    """Raises OSError and ValueError; takes FETCH_S for each wait, and twice that in all."""
    until = time.monotonic() + 2 * FETCH_S
    opener = urllib.request.build_opener(_NoRedirects)
    data = b""
    with opener.open(url, timeout=FETCH_S) as answer:
        while piece := answer.read1(1 << 14):
            data += piece
            if len(data) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes came")
            if time.monotonic() > until:
                raise ValueError(f"it took longer than {2 * FETCH_S:g} s")
    return read_key_set(data, algorithms)
