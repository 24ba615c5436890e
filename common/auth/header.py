"""A header in which a proxy names the caller: believed from whoever connects."""

from __future__ import annotations

from common.auth.authenticator import Credentials, refused
from common.auth.principal import LONGEST_NAME
from common.controls import is_name


class HeaderAuthenticator:
    """The principal is the header's value, as it is."""

    def __init__(self, header: str) -> None:
        self._header = header.lower()

    async def identify(self, credentials: Credentials) -> str | None:
        """See `Authenticator`."""
        values = credentials.values(self._header)
        if not values:
            return None
        if len(values) > 1 or not 1 <= len(values[0]) <= LONGEST_NAME or not is_name(values[0]):
            what = f"has to name the caller once, in 1 to {LONGEST_NAME} printable characters"
            raise refused(f"metadata {self._header!r} {what}")
        return values[0]
