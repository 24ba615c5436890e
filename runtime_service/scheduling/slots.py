"""Where the cache of each session is: in a slot of the engine, parked in host memory, or only in its tokens.

Knows sessions only as tenants. The engine is asked to clear, export and import; nothing here feeds a token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from common.engine.engine import Engine, SlotState
from common.window import earliest
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.running_turn import RunningTurn

MOST_PAUSES = 2
"""A turn that was paused so often has a client that trickles; one that slept for a while pauses its turn once."""


class Residence(Enum):
    """Where a cache is: in a slot, in host memory, or in neither (on disk, in a snapshot, or only as tokens)."""

    RESIDENT = "resident"
    PARKED = "parked"
    STORED = "stored"


@dataclass(eq=False)
class Tenant:
    """A session as its engine sees it; `key` and `epoch` are those of its row, `principal` is whose it is.

    Belongs to the scheduler's thread once a turn was submitted. `written` is one past the highest position whose row
    any step has written since the cache is in its slot. `floor` is the lowest position that what was put there has all
    tokens for. `paused`: nothing is to be done for it. `pauses`: how often its
    turn was paused while it ran. `suspended`: its turn began, and has no slot or may lose it. `spilled`: the cache may
    be kept elsewhere.
    """

    name: str
    history: TokenHistory
    slot: int | None = None
    parked: SlotState | None = None
    written: int = 0
    floor: int = 0
    run: RunningTurn | None = None
    paused: bool = False
    pauses: int = 0
    suspended: bool = False
    spilled: bool = False
    key: int = 0
    epoch: int = 0
    principal: str = ""

    @property
    def running(self) -> RunningTurn:
        """The turn that it runs; it has to have one."""
        assert self.run is not None, self
        return self.run

    @property
    def yields(self) -> bool:
        """Whether its client reads now and then only, and others go before it."""
        return self.pauses >= MOST_PAUSES

    @property
    def residence(self) -> Residence:
        """Where the cache is; safe to read from any thread."""
        if self.slot is not None:
            return Residence.RESIDENT
        return Residence.PARKED if self.parked is not None else Residence.STORED


class Slots:
    """Places tenants. One that rests (runs no turn, or one that is paused) may be parked for another, the longest
    resting first.

    Parked caches take at most `parked_bytes` of host memory: beyond that the oldest is dropped, and its tenant's
    cache is computed again from tokens when it is needed.
    """

    def __init__(
        self, engine: Engine, parked_bytes: int, spill: Callable[[Tenant, SlotState], bool] = lambda *_: False
    ) -> None:
        """`spill` may keep elsewhere what leaves host memory; it must not wait for anything."""
        self._engine = engine
        self._parked_bytes = parked_bytes
        self._spill = spill
        self._tenants: list[Tenant | None] = [None] * engine.geometry.slots
        self._resting: OrderedDict[Tenant, None] = OrderedDict()
        self._parked: OrderedDict[Tenant, int] = OrderedDict()
        self.moves = CacheMoves()

    @property
    def residents(self) -> list[Tenant]:
        """Tenants in slots, by slot."""
        return [tenant for tenant in self._tenants if tenant is not None]

    @property
    def parked_size_bytes(self) -> int:
        """Host memory that parked caches take."""
        return sum(self._parked.values())

    def available(self, tenant: Tenant) -> bool:
        """Whether `acquire` would find a slot."""
        return tenant.slot is not None or None in self._tenants or bool(self._resting)

    def acquire(self, tenant: Tenant) -> bool:
        """Give `tenant` a slot that holds its cache, and keep it there until `rest`; False: every slot is busy."""
        if tenant.slot is not None:
            self._resting.pop(tenant, None)
            return True
        if None not in self._tenants:
            if not self._resting:
                return False
            self._parked.pop(tenant, None)  # who leaves for it must not push it out of host memory
            self._park(next(iter(self._resting)))
        self._move_in(tenant, self._tenants.index(None))
        return True

    def rest(self, tenant: Tenant) -> None:
        """Let `tenant` stay where it is until somebody else needs the slot."""
        if tenant.slot is not None:
            self._resting[tenant] = None

    def export(self, tenant: Tenant) -> SlotState | None:
        """What the cache of `tenant` holds; None if it is nowhere."""
        if tenant.slot is None or tenant.history.fed == 0:
            return tenant.parked
        return self._engine.export_slot(tenant.slot, tenant.history.fed, tenant.history.window)

    def put_back(self, tenant: Tenant, state: SlotState) -> None:
        """Give a cache to `tenant`, which has none, as if it had been parked."""
        assert tenant.residence is Residence.STORED, tenant
        tenant.parked = state
        self._parked[tenant] = state.size_bytes

    def take_back(self, tenant: Tenant, fed: int) -> None:
        """Make the cache hold the tokens before `fed` only, or lose it where later ones have overwritten them."""
        history = tenant.history
        if fed >= history.fed:
            return
        intact = earliest(self._engine.geometry, history.window, tenant.written)
        if tenant.slot is not None and fed >= max(history.start, tenant.floor, intact):
            history.take_back(fed)
        else:
            self.lose(tenant)

    def lose(self, tenant: Tenant) -> None:
        """Drop the cache of `tenant` wherever it is, and free its slot."""
        if tenant.slot is not None:
            self._tenants[tenant.slot] = None
            tenant.slot = None
        self._resting.pop(tenant, None)
        self._parked.pop(tenant, None)
        tenant.parked = None
        tenant.spilled = False
        tenant.history.lose_cache()

    def _move_in(self, tenant: Tenant, slot: int) -> None:
        tenant.floor = 0 if tenant.parked is None else tenant.history.fed
        if tenant.parked is not None:
            self._engine.import_slot(slot, tenant.parked)
            self.moves.unparked += 1
        else:
            self._engine.clear(slot)
            self.moves.note_start(tenant.history)
        self._parked.pop(tenant, None)
        tenant.parked = None
        tenant.slot = slot
        tenant.written = tenant.history.fed
        self._tenants[slot] = tenant

    def _park(self, tenant: Tenant) -> None:
        assert tenant.slot is not None, tenant
        history = tenant.history
        if history.fed == 0:
            self.lose(tenant)
            return
        state = self._engine.export_slot(tenant.slot, history.fed, history.window)
        self._tenants[tenant.slot] = None
        tenant.slot = None
        del self._resting[tenant]
        tenant.parked = state
        self._parked[tenant] = state.size_bytes
        self.moves.parked += 1
        while self.parked_size_bytes > self._parked_bytes:
            self._drop(next(iter(self._parked)))

    def _drop(self, tenant: Tenant) -> None:
        assert tenant.parked is not None, tenant
        spilled = not tenant.suspended and self._spill(tenant, tenant.parked)  # a turn that did not end may be undone
        self.moves.spilled += spilled
        self.moves.dropped += not spilled
        self.lose(tenant)
        tenant.spilled = spilled
