"""The decode worker of a grant, chosen anew when prefill is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.clock import Clock
from app.errors import NoPairAvailable
from app.policies.round_robin import RoundRobin
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.pairing import PairTable
from app.scheduling.reason import Choice
from app.scheduling.scheduler import Ask, Grant, LocalScheduler, Outcome
from app.workers.lease import Lease
from app.workers.registry import Registry
from app.workers.states import Event, State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')
NONE: frozenset[str] = frozenset()


class Fleet:
    """A registry and a scheduler whose policies take turns."""

    def __init__(self, now_s: Clock = lambda: 0.0) -> None:
        self.registry = Registry(now_s=now_s)
        self.scheduler = LocalScheduler(self.registry, RoundRobin(), RoundRobin(), now_s=now_s)

    def add(self, name: str, role: Role, *, label: str = "", dp_size: int = 1) -> Worker:
        """Add a ready worker of model m."""
        labels = {"pairing": label} if label else {}
        worker = self.registry.add(WorkerSpec(f"http://{name}", role, labels=labels))
        self.registry.set_info(worker, WorkerInfo(model_ids=("m",), dp_size=dp_size))
        self.registry.set_state(worker, State.READY)
        return worker

    async def ask(self) -> Grant:
        """Ask for a pair of model m."""
        return await self.scheduler.ask(Ask(replace(FACTS, model="m")))


@pytest.fixture
def fleet() -> Fleet:
    """One prefill worker."""
    made = Fleet()
    made.add("p", Role.PREFILL)
    return made


async def test_turns_are_taken_once(fleet: Fleet) -> None:
    """Two decode workers get every other request, though each is chosen twice."""
    decodes = [fleet.add(name, Role.DECODE, dp_size=2) for name in ("d0", "d1")]
    chosen: list[tuple[Worker, int]] = []
    for _ in range(8):
        grant = await fleet.ask()
        fleet.scheduler.rebind_decode(grant, NONE)
        chosen.append((grant.pair.decode, grant.pair.decode_rank))
        fleet.scheduler.done(grant, Outcome.OK)
    assert [chosen.count((decode, rank)) for decode in decodes for rank in (0, 1)] != [4, 0, 4, 0]
    assert [sum(worker is d for worker, _ in chosen) for d in decodes] == [4, 4]


async def test_busier_one_is_left(fleet: Fleet) -> None:
    """What came to it while prefill ran counts; the lease moves along."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    grant = await fleet.ask()
    assert grant.pair.decode is one
    with Lease(one, 0):
        fleet.scheduler.rebind_decode(grant, NONE)
    assert grant.pair.decode is other
    assert (one.n_leases, other.n_leases) == (0, 1)
    assert grant.reason.decode == Choice("http://d1", "round_robin", "", 2, 0)
    fleet.scheduler.done(grant, Outcome.OK)
    assert (one.n_leases, other.n_leases) == (0, 0)


async def test_tried_one_is_left(fleet: Fleet) -> None:
    """However idle it is; with none left the grant stays as it was."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    grant = await fleet.ask()
    fleet.scheduler.rebind_decode(grant, frozenset({one.id}))
    assert grant.pair.decode is other
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(grant, frozenset({one.id, other.id}))
    assert (grant.pair.decode, other.n_leases, one.n_leases) == (other, 1, 0)


async def test_one_that_is_gone_or_full_is_left(fleet: Fleet) -> None:
    """An open breaker, a full worker, one that was removed."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    for spoil in (lambda: one.back_off(5.0), lambda: fleet.registry.remove(one.id)):
        grant = await fleet.ask()
        while grant.pair.decode is not one:
            fleet.scheduler.done(grant, Outcome.OK)
            grant = await fleet.ask()
        spoil()
        fleet.scheduler.rebind_decode(grant, NONE)
        assert grant.pair.decode is other
        fleet.scheduler.done(grant, Outcome.OK)
        one.capacity_until_s = 0.0


async def test_ended_grant_takes_no_lease(fleet: Fleet) -> None:
    """A request that ended meanwhile leaves nothing behind."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    grant = await fleet.ask()
    fleet.scheduler.done(grant, Outcome.CANCELLED)
    fleet.scheduler.rebind_decode(grant, frozenset({one.id}))
    assert (one.n_leases, other.n_leases) == (0, 0)


async def test_trial_is_counted(fleet: Fleet) -> None:
    """A decode worker whose breaker is half open gets as many trials as it may."""
    clock = [0.0]
    late = Fleet(lambda: clock[0])
    late.add("p", Role.PREFILL)
    one = late.add("d0", Role.DECODE)
    grants = [await late.ask() for _ in range(4)]
    other = late.add("d1", Role.DECODE)
    for _ in range(10):
        other.breaker.record_failure()
    clock[0] = 60.0
    for grant in grants[:3]:
        late.scheduler.rebind_decode(grant, frozenset({one.id}))
        assert grant.pair.decode is other
    with pytest.raises(NoPairAvailable):
        late.scheduler.rebind_decode(grants[3], frozenset({one.id}))


async def test_trial_is_not_refused_by_itself() -> None:
    """A request that is a half-open worker's only trial stays there, beside a well one too."""
    clock = [0.0]
    fleet = Fleet(lambda: clock[0])
    fleet.add("p", Role.PREFILL)
    one = fleet.add("d0", Role.DECODE)
    for _ in range(10):
        one.breaker.record_failure()
    clock[0] = 60.0
    grants = [await fleet.ask() for _ in range(3)]
    assert not one.breaker.allows()
    fleet.scheduler.rebind_decode(grants[0], NONE)
    fleet.add("d1", Role.DECODE)
    fleet.scheduler.rebind_decode(grants[1], NONE)
    assert [grant.pair.decode for grant in grants] == [one] * 3
    assert one.n_leases == 3


async def test_draining_one_keeps_what_it_has(fleet: Fleet) -> None:
    """With no other decode worker the request goes on, as it began before the drain."""
    one = fleet.add("d0", Role.DECODE)
    grant = await fleet.ask()
    fleet.registry.set_state(one, State.DRAINING)
    fleet.scheduler.rebind_decode(grant, NONE)
    assert (grant.pair.decode, one.n_leases) == (one, 1)
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(grant, frozenset({one.id}))
    fleet.registry.remove(one.id)
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(grant, NONE)


async def test_only_partners(fleet: Fleet) -> None:
    """Decode workers of another pairing label never take the handoff."""
    one = fleet.add("d0", Role.DECODE)
    fleet.add("p1", Role.PREFILL, label="x")
    fleet.add("d1", Role.DECODE, label="x")
    table = PairTable(fleet.registry.snapshot())
    prefill = next(w for w in fleet.registry.workers() if w.spec.url == "http://p")
    assert table.partners(prefill, "m") == (one,)
    assert table.partners(prefill, None) == (one,)
    grant = await fleet.ask()
    while grant.pair.prefill is not prefill:
        grant = await fleet.ask()
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(grant, frozenset({one.id}))


async def test_prefill_that_drains_still_hands_over(fleet: Fleet) -> None:
    """Its KV cache goes to a decode worker that fits, though it takes no new request itself."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    fleet.add("foreign", Role.DECODE, label="x")
    for named in ("m", None):
        grant = await fleet.scheduler.ask(Ask(replace(FACTS, model=named)))
        fleet.registry.apply(grant.pair.prefill, Event.REMOVAL)
        fleet.scheduler.rebind_decode(grant, frozenset({one.id}))
        assert grant.pair.decode is other
        fleet.scheduler.done(grant, Outcome.OK)
        fleet.add(f"p-{named}", Role.PREFILL)


async def test_other_models_do_not_fit_a_request_without_one(fleet: Fleet) -> None:
    """Without a model in the request, decode must serve a model of prefill's."""
    one = fleet.add("d0", Role.DECODE)
    grant = await fleet.scheduler.ask(Ask(replace(FACTS, model=None)))
    worker = fleet.registry.add(WorkerSpec("http://other", Role.DECODE))
    fleet.registry.set_info(worker, WorkerInfo(model_ids=("other",)))
    fleet.registry.apply(worker, Event.JOINED)
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(grant, frozenset({one.id}))


async def test_decode_that_drains_is_kept_if_it_is_the_only_one(fleet: Fleet) -> None:
    """It waits for the lease it granted; another is taken if there is one; no tried one."""
    one = fleet.add("d0", Role.DECODE)
    grant, late = await fleet.ask(), await fleet.ask()
    fleet.registry.apply(one, Event.REMOVAL)
    fleet.scheduler.rebind_decode(grant, NONE)
    assert (grant.pair.decode, one.n_leases) == (one, 2)
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(late, frozenset({one.id}))
    other = fleet.add("d1", Role.DECODE)
    fleet.scheduler.rebind_decode(grant, NONE)
    assert (grant.pair.decode, one.n_leases) == (other, 1)
    fleet.registry.apply(one, Event.FORCED)
    fleet.registry.remove(other.id)
    with pytest.raises(NoPairAvailable):
        fleet.scheduler.rebind_decode(late, NONE)


async def test_computed_prefill_is_no_load_and_is_held(fleet: Fleet) -> None:
    """Not counted as load once computed, held until it has ended; both are over in the end."""
    fleet.add("d0", Role.DECODE)
    grant = await fleet.ask()
    prefill = grant.pair.prefill
    fleet.scheduler.prefill_computed(grant)
    assert (prefill.n_leases, prefill.n_held) == (0, 1)
    fleet.scheduler.prefill_ended(grant)
    fleet.scheduler.done(grant, Outcome.OK)
    assert (prefill.n_leases, prefill.n_held) == (0, 0)


async def test_place_of_a_trial_comes_back(fleet: Fleet) -> None:
    """With the grant, however it ended; and with the worker that was not used after all."""
    clock = [0.0]
    late = Fleet()
    late.registry = Registry(now_s=lambda: clock[0])
    late.scheduler = LocalScheduler(
        late.registry, RoundRobin(), RoundRobin(), now_s=lambda: clock[0]
    )
    prefill, one = late.add("p", Role.PREFILL), late.add("d0", Role.DECODE)
    for worker in (prefill, one):
        for _ in range(10):
            worker.breaker.record_failure()
    clock[0] = 60.0
    for _ in range(5):
        grants = [await late.ask() for _ in range(3)]
        with pytest.raises(NoPairAvailable):
            await late.ask()
        for grant in grants:
            late.scheduler.done(grant, Outcome.CANCELLED)
    grants = [await late.ask() for _ in range(3)]
    late.add("d1", Role.DECODE)
    for grant in grants:
        late.scheduler.rebind_decode(grant, frozenset({one.id}))
    assert one.breaker.allows()
    assert not prefill.breaker.allows()


async def test_who_can_read_what_a_grant_left(fleet: Fleet) -> None:
    """Its own worker first, or last if it cannot be used; the others if they can and fit."""
    one, other = (fleet.add(name, Role.DECODE) for name in ("d0", "d1"))
    fleet.add("d2", Role.DECODE, label="of another pair")
    grant = await fleet.ask()
    fleet.scheduler.done(grant, Outcome.CANCELLED)
    assert grant.pair.decode is one
    assert list(fleet.scheduler.decodes_for(grant)) == [one, other]
    fleet.registry.set_state(one, State.UNHEALTHY)
    assert list(fleet.scheduler.decodes_for(grant)) == [other, one]
    fleet.registry.remove(one.id)
    fleet.registry.set_state(other, State.DRAINING)
    assert list(fleet.scheduler.decodes_for(grant)) == [one]
