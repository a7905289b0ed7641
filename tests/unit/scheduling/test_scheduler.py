"""Asking for pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.errors import NoPairAvailable, UnknownModel
from app.policies.cache_aware import CacheAware
from app.policies.least_load import LeastLoad
from app.policies.round_robin import RoundRobin
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.scheduler import Ask, Grant, LocalScheduler, Outcome
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class Fleet:
    """A registry, its scheduler and their clock."""

    def __init__(self) -> None:
        self.clock = Hand()
        self.registry = Registry(now_s=self.clock)
        self.scheduler = LocalScheduler(self.registry, LeastLoad(), LeastLoad(), self.clock)

    def add(
        self, url: str, role: Role, *models: str, dp_size: int = 1, label: str | None = None
    ) -> Worker:
        """Add a ready worker; without models it takes any."""
        labels = {} if label is None else {"pairing": label}
        worker = self.registry.add(WorkerSpec(f"http://{url}", role, labels=labels))
        self.registry.set_info(worker, WorkerInfo(model_ids=models, dp_size=dp_size))
        self.registry.set_state(worker, State.READY)
        return worker

    async def ask(self, model: str | None = "m", *excluded: Worker) -> Grant:
        """Ask for a pair."""
        ids = frozenset(worker.id for worker in excluded)
        return await self.scheduler.ask(Ask(replace(FACTS, model=model), ids))


@pytest.fixture
def fleet() -> Fleet:
    """No workers yet."""
    return Fleet()


async def test_pair_is_counted_until_done(fleet: Fleet) -> None:
    """A lease on either worker when granted; prefill's ends first; nothing left, however often."""
    prefill = fleet.add("p", Role.PREFILL, "m")
    decode = fleet.add("d", Role.DECODE, "m")
    grant = await fleet.ask()
    assert (prefill, decode, 0) == (
        grant.pair.prefill,
        grant.pair.decode,
        grant.pair.prefill_rank,
    )
    assert (1, 1) == (prefill.load, decode.load)
    fleet.scheduler.prefill_ended(grant)
    assert (0, 1) == (prefill.load, decode.load)
    fleet.scheduler.done(grant, Outcome.OK)
    fleet.scheduler.done(grant, Outcome.CANCELLED)
    assert (0, 0) == (prefill.load, decode.load)


async def test_load_is_spread(fleet: Fleet) -> None:
    """Four asks at once put two on each worker."""
    workers = [fleet.add(f"{role}{i}", role, "m") for i in (0, 1) for role in list(Role)[:2]]
    for _ in range(4):
        await fleet.ask()
    assert [2, 2, 2, 2] == [worker.load for worker in workers]


async def test_unknown_model(fleet: Fleet) -> None:
    """404 when workers answered and none serves it; the name is cut."""
    fleet.add("p", Role.PREFILL, "m")
    with pytest.raises(UnknownModel, match="'other' is not served") as caught:
        await fleet.ask("other")
    assert ("model", 404) == (caught.value.param, caught.value.status)
    with pytest.raises(UnknownModel) as caught:
        await fleet.ask("x" * 10_000)
    assert len(caught.value.message) < 300


async def test_unknown_model_while_a_worker_joins(fleet: Fleet) -> None:
    """503 for the first 30 s of a worker that was not asked yet, then 404."""
    fleet.add("p", Role.PREFILL, "m")
    fleet.registry.add(WorkerSpec("http://late", Role.PREFILL))
    with pytest.raises(NoPairAvailable):
        await fleet.ask("other")
    fleet.clock.s = 31
    with pytest.raises(UnknownModel):
        await fleet.ask("other")


async def test_no_worker_at_all(fleet: Fleet) -> None:
    """503 with Retry-After 1, naming both roles."""
    with pytest.raises(NoPairAvailable, match=r"no prefill worker of .*no decode") as caught:
        await fleet.ask()
    assert (1, 503) == (caught.value.retry_after_s, caught.value.status)


async def test_reason_names_what_lacks(fleet: Fleet) -> None:
    """The role, how many there are and how many are ready."""
    fleet.add("p", Role.PREFILL, "m")
    for url in ("d0", "d1"):
        fleet.registry.set_state(fleet.add(url, Role.DECODE, "m"), State.UNHEALTHY)
    with pytest.raises(
        NoPairAvailable,
        match=r"no decode worker of model 'm' is ready \(2 registered, 0 ready\)\.$",
    ):
        await fleet.ask()


async def test_regular_workers_make_no_pair(fleet: Fleet) -> None:
    """503: the model is known, but there is no pair."""
    fleet.add("r", Role.REGULAR, "m")
    with pytest.raises(NoPairAvailable, match="No worker is available"):
        await fleet.ask()


async def test_tried_workers_are_left_out(fleet: Fleet) -> None:
    """The other one is taken; with none left 503 says so."""
    one, other = (fleet.add(url, Role.PREFILL, "m") for url in ("p0", "p1"))
    fleet.add("d", Role.DECODE, "m")
    for _ in range(3):
        assert other is (await fleet.ask("m", one)).pair.prefill
    with pytest.raises(NoPairAvailable, match=r"2 registered, 2 ready, 2 tried already"):
        await fleet.ask("m", one, other)


async def test_open_breaker_is_left_out(fleet: Fleet) -> None:
    """The other one is taken; with all open 503; trials after 60 s, three at a time."""
    one, other = (fleet.add(url, Role.PREFILL, "m") for url in ("p0", "p1"))
    fleet.add("d", Role.DECODE, "m")
    for _ in range(10):
        one.breaker.record_failure()
    for _ in range(3):
        assert other is (await fleet.ask()).pair.prefill
    fleet.registry.remove(other.id)
    with pytest.raises(NoPairAvailable, match="1 with an open circuit"):
        await fleet.ask()
    fleet.clock.s = 60
    for _ in range(3):
        assert one is (await fleet.ask()).pair.prefill
    with pytest.raises(NoPairAvailable):
        await fleet.ask()


async def test_full_worker_is_used_last(fleet: Fleet) -> None:
    """The other one while there is one, the full one when there is none, both later."""
    one, other = (fleet.add(url, Role.DECODE, "m") for url in ("d0", "d1"))
    fleet.add("p", Role.PREFILL, "m")
    one.back_off(5.0)
    for _ in range(3):
        assert other is (await fleet.ask()).pair.decode
    assert one is (await fleet.ask("m", other)).pair.decode
    fleet.clock.s = 5.0
    assert one is (await fleet.ask()).pair.decode


async def test_without_a_model_both_serve_the_same(fleet: Fleet) -> None:
    """The one model that has both roles, though another has an idle prefill worker."""
    fleet.add("p0", Role.PREFILL, "x")
    prefill = fleet.add("p1", Role.PREFILL, "y")
    decode = fleet.add("d", Role.DECODE, "y")
    for _ in range(3):
        pair = (await fleet.ask(None)).pair
        assert (prefill, decode) == (pair.prefill, pair.decode)


async def test_without_a_model_no_mixed_pair(fleet: Fleet) -> None:
    """503 rather than a pair of two models."""
    fleet.add("p", Role.PREFILL, "x")
    fleet.add("d", Role.DECODE, "y")
    with pytest.raises(NoPairAvailable, match="that fit together"):
        await fleet.ask(None)


@pytest.mark.parametrize("model", [None, "anything"])
async def test_wildcards_serve_any_model(fleet: Fleet, model: str | None) -> None:
    """A pair whatever is asked for."""
    prefill = fleet.add("p", Role.PREFILL)
    fleet.add("d", Role.DECODE)
    assert prefill is (await fleet.ask(model)).pair.prefill


async def test_wildcard_pairs_with_a_named_model(fleet: Fleet) -> None:
    """A wildcard prefill worker hands over to the model's decode worker."""
    fleet.add("p", Role.PREFILL)
    decode = fleet.add("d", Role.DECODE, "m")
    assert decode is (await fleet.ask(None)).pair.decode


async def test_labels_keep_pairs_apart(fleet: Fleet) -> None:
    """Prefill and decode always of one label, both labels used, none where a side is missing."""
    for label in ("a", "b"):
        fleet.add(f"p-{label}", Role.PREFILL, "m", label=label)
        fleet.add(f"d-{label}", Role.DECODE, "m", label=label)
    lonely = fleet.add("p-c", Role.PREFILL, "m", label="c")
    seen = set()
    for _ in range(8):
        pair = (await fleet.ask()).pair
        assert pair.prefill.host[-1] == pair.decode.host[-1]
        seen.add(pair.prefill.host)
    assert ({"p-a", "p-b"}, 0) == (seen, lonely.load)


async def test_freest_rank_is_taken(fleet: Fleet) -> None:
    """Four asks take the four ranks; the fifth the one that was given back."""
    prefill = fleet.add("p", Role.PREFILL, "m", dp_size=4)
    fleet.add("d", Role.DECODE, "m", dp_size=2)
    grants = [await fleet.ask() for _ in range(4)]
    assert [1, 1, 1, 1] == prefill.rank_leases
    fleet.scheduler.done(grants[2], Outcome.OK)
    grant = await fleet.ask()
    assert grants[2].pair.prefill_rank == grant.pair.prefill_rank


async def test_changes_are_seen_at_once(fleet: Fleet) -> None:
    """The pair of the state of now: a drained worker gets nothing more."""
    one, other = (fleet.add(url, Role.PREFILL, "m") for url in ("p0", "p1"))
    fleet.add("d", Role.DECODE, "m")
    await fleet.ask()
    fleet.registry.set_state(one, State.DRAINING)
    assert other is (await fleet.ask()).pair.prefill
    fleet.registry.remove(other.id)
    with pytest.raises(NoPairAvailable):
        await fleet.ask()


@pytest.mark.parametrize("event", ["removed", "restarted"])
async def test_policies_forget(fleet: Fleet, event: str) -> None:
    """A prompt's prefix is no reason to go to a worker that was started anew."""
    fleet.scheduler = LocalScheduler(fleet.registry, CacheAware(), RoundRobin(), fleet.clock)
    one, _ = (fleet.add(url, Role.PREFILL, "m") for url in ("p0", "p1"))
    fleet.add("d", Role.DECODE, "m")
    first = (await fleet.ask()).pair.prefill
    assert first is (await fleet.ask()).pair.prefill
    fleet.registry.announce(event, first)
    assert first is not (await fleet.ask()).pair.prefill
    assert one.load > 0


async def test_what_does_not_fit_is_said(fleet: Fleet) -> None:
    """503 with the difference, once every other reason is out."""
    for name, role, page_size in (("p", Role.PREFILL, 16), ("d", Role.DECODE, 32)):
        worker = fleet.add(name, role, "m")
        fleet.registry.set_info(worker, WorkerInfo(model_ids=("m",), page_size=page_size))
    with pytest.raises(NoPairAvailable, match=r"are ready \(page size 16 against 32\)\.$"):
        await fleet.ask()
    with pytest.raises(NoPairAvailable, match=r"are ready \(page size 16 against 32\)\.$"):
        await fleet.ask(None)
