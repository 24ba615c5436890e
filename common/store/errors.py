"""Turns what an object store's client raises into errors that a person can act on.

Their messages hold no secrets: of the store's answer only the code and the first line of the message are shown, since
the rest, and what the client adds, may contain keys, signatures and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from common.errors import FailedPrecondition, Reason, SinkServeError, Unavailable

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,200})")
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
# Services that the client asks for credentials if the environment has none:
_METADATA_SERVERS = ("169.254.", "metadata.google.internal", "/latest/api/token", "/latest/meta-data")
_BUSY = frozenset({408, 429})
_RETRY_AFTER_S = 10.0


@contextmanager
def explained(store: str) -> Iterator[None]:
    """Raise FailedPrecondition or Unavailable (STORE_UNAVAILABLE) for what a store's client raises inside.

    FileNotFoundError passes if it is the object that is missing, and not its bucket. `store` names the store.
    """
    try:
        yield
    except FileNotFoundError as error:
        if _code(str(error)) not in _NO_BUCKET:
            raise
        raise _explain(store, error) from None
    except BaseError as error:
        raise _explain(store, error) from None


def _explain(store: str, error: Exception) -> SinkServeError:
    text = str(error)
    if any(server in text.partition("\n")[0] for server in _METADATA_SERVERS):
        return _wrong(store, "there are no credentials for it in the environment, and this machine has none of its own")
    if _code(text) in _NO_BUCKET:
        return _wrong(store, "its bucket does not exist; create it, or set SINKSERVE_STORE_URL to another")
    if "builder error" in text:
        return _wrong(store, "its endpoint is no URL to be used; for http:// set the vendor's ..._ALLOW_HTTP=true")
    status = _STATUS.search(text)
    if _is_refusal(error, int(status[1]) if status else 0):
        return _wrong(store, f"it refuses: {_said(text)}; check credentials, their rights and the region")
    message = f"the store {store} does not answer{_said_too(text)}; try again"
    return Unavailable(Reason.STORE_UNAVAILABLE, message, retry_after_s=_RETRY_AFTER_S, store=store)


def _is_refusal(error: Exception, status: int) -> bool:
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    return denied or (300 <= status < 500 and status not in _BUSY)


def _wrong(store: str, cause: str) -> FailedPrecondition:
    message = f"the store {store} cannot be used: {cause}"
    return FailedPrecondition(Reason.STORE_UNAVAILABLE, message, store=store)


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _said(text: str) -> str:
    """Code and message of the store's answer, or else the status."""
    found = _MESSAGE.search(text)
    status = _STATUS.search(text)
    said = ": ".join(part for part in (_code(text), found[1].rstrip(". ") if found else "") if part)
    return said or (f"status {status[1]}" if status else "permission denied")


def _said_too(text: str) -> str:
    return f" ({_said(text)})" if _STATUS.search(text) else ""
