"""Object stores by URL: which URLs there are, how their clients are set up, and what they are called in messages.

Credentials and endpoints come from the environment alone, under the names that each vendor gives them.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from common.errors import InvalidArgument, Reason
from common.timeouts import STORE_TIMEOUT_S

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_VENDORS = {
    **dict.fromkeys(("s3", "s3a"), "AWS"),
    "gs": "GOOGLE",
    **dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "AZURE"),
}
_WHOLE_TIMEOUT = "1 day"  # of one request with its body, which may be a large blob; the client's own is 30 seconds
_MOST_RETRIES = 8
_MOST_TO_CONNECT_S = 5.0


def open_object_store(url: str, patience_s: float = STORE_TIMEOUT_S) -> ObjectStore:
    """Open a folder, a file:// URL or an object-store URL, which may be silent for `patience_s`, tries and all.

    Raises InvalidArgument if it is none, or cannot be used.
    """
    root = local_root(url)
    try:
        if root is not None:
            return LocalStore(prefix=root, mkdir=True)
        return _open(url, patience_s)
    except (BaseError, OSError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise InvalidArgument(Reason.INVALID_FIELD, f"store_url {store_name(url)!r} cannot be used: {cause}") from None


def local_root(url: str) -> Path | None:
    """The folder that a URL or a path names; None for an object store. Raises InvalidArgument for neither."""
    parts = _split(url)
    if not url or (parts.scheme == "file" and parts.netloc not in {"", "localhost"}):
        raise InvalidArgument(Reason.INVALID_FIELD, f"store_url {url!r} names no folder of this machine")
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    return None if parts.scheme else Path(url).absolute()


def store_name(url: str) -> str:
    """A URL without whatever might be a secret."""
    parts = _split(url)
    host = parts.netloc.rpartition("@")[2] if parts.password else parts.netloc
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else url


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise InvalidArgument(Reason.INVALID_FIELD, "store_url is not a URL") from None


def _open(url: str, patience_s: float) -> ObjectStore:
    _check(url)
    once_s = patience_s / 2  # when that has passed no further try is begun, and the last one may take as long
    client: ClientConfig = {
        "allow_http": _allows_http(url),
        "timeout": _WHOLE_TIMEOUT,
        "read_timeout": timedelta(seconds=once_s),
        "connect_timeout": timedelta(seconds=min(once_s, _MOST_TO_CONNECT_S)),
    }
    retries: RetryConfig = {"max_retries": _MOST_RETRIES, "retry_timeout": timedelta(seconds=once_s)}
    return from_url(url, client_options=client, retry_config=retries)


def _check(url: str) -> None:
    """Raise ValueError for what is no URL of an object store, and for one with secrets in it."""
    parts = _split(url)
    if parts.scheme not in _VENDORS:
        raise ValueError(
            "it is neither a folder nor a URL such as s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
        )
    if parts.password or parts.query or parts.fragment:
        raise ValueError("it ends with the path; credentials and options come from the environment")


def _allows_http(url: str) -> bool:
    """The client reads this by itself only where it is given no options at all."""
    vendor = _VENDORS[_split(url).scheme]
    return os.environ.get(f"{vendor}_ALLOW_HTTP", "").strip().lower() in {"1", "true", "yes", "on"}
