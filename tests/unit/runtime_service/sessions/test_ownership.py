"""How a session is claimed from another server: it is asked for, and waited for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from common.errors import Reason, Unavailable
from runtime_service.domain.session import Session
from runtime_service.sessions import ownership
from runtime_service.sessions.ownership import Ownership, draining
from runtime_service.storage.claims import Claimed
from tests.fakes.session.storage import DirectWriter
from tests.samples.session_examples import SESSION

KEY = ("local", "a")


class Claims:
    """Another server owns the session for so many tries."""

    lease_s = 15.0

    def __init__(self, tries: int = 0, *, away: bool = False, owner: bool = True) -> None:
        self.left = tries
        self.away = away
        self.owner = owner

    def claim(self, *key: str) -> Claimed | None:
        assert key == KEY
        self._check()
        self.left -= 1
        return None if self.left >= 0 else Claimed(SESSION, [], 1)

    def is_owner(self, _session: Session) -> bool:
        self._check()
        return self.owner

    def _check(self) -> None:
        if self.away:
            raise Unavailable(Reason.DATABASE_UNAVAILABLE, "away")


def _ownership(claims: Claims) -> Ownership:
    return Ownership(cast("Any", claims), cast("Any", DirectWriter()))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "CLAIM_POLL_S", 0)


async def test_a_session_is_asked_for_until_it_is_handed_over() -> None:
    asked = []
    claimed = await _ownership(Claims(3)).claim(KEY, lambda: asked.append(1))
    assert (claimed.session, len(asked)) == (SESSION, 3)


async def test_a_server_that_does_not_hand_over_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "CLAIM_LEASES", -1)
    claims = Claims(2)
    with pytest.raises(Unavailable) as caught:
        await _ownership(claims).claim(KEY, lambda: None)
    assert (caught.value.reason, claims.left) == (Reason.SESSION_BUSY, 1)


async def test_nobody_waits_for_a_session_while_this_server_stops() -> None:
    def stopping() -> None:
        raise draining()

    with pytest.raises(Unavailable) as caught:
        await _ownership(Claims(3)).claim(KEY, stopping)
    assert caught.value.reason is Reason.DRAINING


async def test_a_database_that_is_away_is_not_asked_again() -> None:
    with pytest.raises(Unavailable) as caught:
        await _ownership(Claims(away=True)).claim(KEY, lambda: None)
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE


@pytest.mark.parametrize(("owner", "away", "current"), [(True, False, True), (False, False, False), (True, True, True)])
async def test_a_claim_is_current_until_the_database_says_otherwise(*, owner: bool, away: bool, current: bool) -> None:
    assert await _ownership(Claims(owner=owner, away=away)).is_current(SESSION) is current
