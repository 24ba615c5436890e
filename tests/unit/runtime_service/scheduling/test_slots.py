"""Who is in which slot: least recently rested leaves, parked memory is bounded, nothing is in two places."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.engine.engine import Feed, SlotState
from common.window import Geometry, SessionWindow
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.scheduling.slots import Residence, Slots, Tenant
from tests.fakes.engine import FakeEngine, expected_logits
from tests.nightly import examples

GEOMETRY = Geometry(sinks=2, window=5, chunk=3, slots=3)
STATE_BYTES = 56  # of a full cache in the fake engine: 7 rows, keys and values of 4 bytes


def test_what_was_parked_is_not_taken_back_to_before_it_was() -> None:
    """A state holds what its own position sees, which is less than what an earlier one does."""
    slots = Slots(FakeEngine(Geometry(sinks=0, window=5, chunk=4, slots=1)), 1 << 20)
    one, other = (Tenant(name, TokenHistory(SessionWindow(0, 5), (1,) * 8)) for name in "ab")
    slots.acquire(one)
    one.history.advance(7)
    slots.rest(one)
    for tenant in (other, one):
        assert slots.acquire(tenant)
        slots.rest(tenant)
    one.written = 8
    slots.take_back(one, 6)
    assert one.residence is Residence.STORED


class Residencies(RuleBasedStateMachine):
    """Tenants that work, rest, leave and come back, as a scheduler would have them."""

    @initialize(budget=st.integers(0, 4))
    def begin(self, budget: int) -> None:
        self.engine = FakeEngine(GEOMETRY)
        self.budget = budget * STATE_BYTES
        self.slots = Slots(self.engine, self.budget)
        self.tenants = [Tenant(str(index), TokenHistory(SessionWindow(2, 5))) for index in range(6)]
        self.histories: dict[Tenant, list[int]] = {tenant: [] for tenant in self.tenants}
        self.working: list[Tenant] = []

    @rule(index=st.integers(0, 5))
    def acquire(self, index: int) -> None:
        tenant = self.tenants[index]
        if tenant in self.working:
            return
        expected = len(self.working) < GEOMETRY.slots
        assert self.slots.available(tenant) is expected
        assert self.slots.acquire(tenant) is expected
        if expected:
            self.working.append(tenant)
            if tenant.history.fed == 0:
                self._feed_again(tenant)

    @rule(index=st.integers(0, 5), token=st.integers(0, 63))
    def feed(self, index: int, token: int) -> None:
        tenant = self.tenants[index]
        if tenant in self.working:
            tenant.history.append(token)
            self.histories[tenant].append(token)
            self._feed_one(tenant)

    @rule(index=st.integers(0, 5), count=st.integers(1, 4))
    def take_back(self, index: int, count: int) -> None:
        tenant = self.tenants[index]
        if tenant in self.working and count <= tenant.history.kept(tenant.history.length) - 5:
            length = tenant.history.length - count
            self.slots.take_back(tenant, length)
            tenant.history.truncate(length)
            del self.histories[tenant][length:]
            if tenant.slot is None:
                self.working.remove(tenant)

    @rule(index=st.integers(0, 5))
    def rest(self, index: int) -> None:
        tenant = self.tenants[index]
        if tenant in self.working:
            self.working.remove(tenant)
            self.slots.rest(tenant)

    @rule(index=st.integers(0, 5))
    def lose(self, index: int) -> None:
        tenant = self.tenants[index]
        self.slots.lose(tenant)
        assert tenant.residence is Residence.STORED
        if tenant in self.working:
            self.working.remove(tenant)

    @invariant()
    def each_is_in_one_place(self) -> None:
        residents = self.slots.residents
        assert [tenant.slot for tenant in residents] == sorted(
            {tenant.slot for tenant in residents if tenant.slot is not None}
        )
        assert all(tenant in residents for tenant in self.working)
        assert all(tenant.parked is None for tenant in residents)

    @invariant()
    def parked_memory_is_bounded_and_counted(self) -> None:
        parked = [tenant.parked for tenant in self.tenants if tenant.parked is not None]
        assert self.slots.parked_size_bytes == sum(state.size_bytes for state in parked) <= self.budget

    def _feed_again(self, tenant: Tenant) -> None:
        tenant.history.refill(self.histories[tenant][:2], 0, self.histories[tenant])
        while tenant.history.unfed:
            self._feed_one(tenant)

    def _feed_one(self, tenant: Tenant) -> None:
        history = tenant.history
        feeds = tuple(
            Feed(each.slot, each.history.fed, each.history.window, history.next_tokens(1) if each is tenant else ())
            for each in self.slots.residents
            if each.slot is not None
        )
        logits = self.engine.step(feeds)
        history.advance(1)
        tenant.written = max(tenant.written, history.fed)
        expected = expected_logits(self.histories[tenant][: history.fed], history.window)
        assert (logits[0] == expected).all()


TestResidencies = Residencies.TestCase
TestResidencies.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)


def test_the_longest_resting_makes_room() -> None:
    slots = Slots(FakeEngine(GEOMETRY), 1 << 20)
    tenants = [Tenant(str(index), TokenHistory(SessionWindow(2, 5), [1, 2, 3])) for index in range(4)]
    for tenant in tenants[:3]:
        slots.acquire(tenant)
        tenant.history.advance(3)
    for tenant in (tenants[1], tenants[0], tenants[2]):
        slots.rest(tenant)
    assert slots.acquire(tenants[3])
    assert [tenant.residence for tenant in tenants[:3]] == [Residence.RESIDENT, Residence.PARKED, Residence.RESIDENT]
    assert tenants[3].slot == 1


def test_who_comes_back_is_not_pushed_out_of_memory_by_who_leaves_for_it() -> None:
    engine = FakeEngine(GEOMETRY)
    tenants = [Tenant(str(index), TokenHistory(SessionWindow(2, 5), [1, 2, 3])) for index in range(4)]
    slots = Slots(engine, engine.export_slot(0, 3, SessionWindow(2, 5)).size_bytes)
    for tenant in tenants:
        assert slots.acquire(tenant)
        tenant.history.advance(3)
        slots.rest(tenant)
    assert tenants[0].residence is Residence.PARKED
    assert slots.acquire(tenants[0])
    assert (tenants[0].residence, tenants[0].history.fed) == (Residence.RESIDENT, 3)
    assert (slots.moves.unparked, slots.moves.dropped, tenants[1].residence) == (1, 0, Residence.PARKED)


def test_what_leaves_host_memory_may_be_kept_elsewhere_and_comes_back() -> None:
    engine = FakeEngine(GEOMETRY)
    kept: dict[str, SlotState] = {}

    def spill(tenant: Tenant, state: SlotState) -> bool:
        kept[tenant.name] = state
        return tenant.name == "0"

    slots = Slots(engine, 0, spill)
    tenants = [Tenant(str(index), TokenHistory(SessionWindow(2, 5), [1, 2, 3])) for index in range(5)]
    for tenant in tenants:
        assert slots.acquire(tenant)
        tenant.history.advance(3)
        slots.rest(tenant)
    assert [(tenant.residence, tenant.spilled) for tenant in tenants[:2]] == [
        (Residence.STORED, True),
        (Residence.STORED, False),
    ]
    assert (slots.moves.spilled, slots.moves.dropped) == (1, 1)
    slots.put_back(tenants[0], kept["0"])
    tenants[0].history.restore(kept["0"].position)
    assert slots.acquire(tenants[0])
    state = slots.export(tenants[0])
    assert state is not None
    assert state.keys.tolist() == kept["0"].keys.tolist()
