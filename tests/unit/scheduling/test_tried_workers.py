"""Workers that failed a request are left out of its further attempts, late choices included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.errors import NoPairAvailable
from app.policies.round_robin import RoundRobin
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.scheduler import Ask, LocalScheduler
from app.workers.lease import Lease
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

FACTS = replace(peek(Route.GENERATE, b'{"text":"x"}'), model="m")


class Fleet:
    """Two prefill and three decode workers."""

    def __init__(self) -> None:
        self.registry = Registry(now_s=lambda: 0.0)
        self.scheduler = LocalScheduler(
            self.registry, RoundRobin(), RoundRobin(), now_s=lambda: 0.0
        )
        self.prefills = [self._add(f"p{i}", Role.PREFILL) for i in range(2)]
        self.decodes = [self._add(f"d{i}", Role.DECODE) for i in range(3)]

    def _add(self, name: str, role: Role) -> Worker:
        worker = self.registry.add(WorkerSpec(f"http://{name}", role))
        self.registry.set_info(worker, WorkerInfo(model_ids=("m",)))
        self.registry.set_state(worker, State.READY)
        return worker


@pytest.fixture
def fleet() -> Fleet:
    """All of them idle and ready."""
    return Fleet()


async def test_tried_workers_are_left_out(fleet: Fleet) -> None:
    """Of both roles, whoever's turn it is."""
    tried = frozenset({fleet.prefills[0].id, fleet.decodes[0].id})
    for _ in range(4):
        pair = (await fleet.scheduler.ask(Ask(FACTS, tried))).pair
        assert tried.isdisjoint({pair.prefill.id, pair.decode.id})


async def test_all_were_tried(fleet: Fleet) -> None:
    """There is nobody left to ask."""
    tried = frozenset(worker.id for worker in fleet.decodes)
    with pytest.raises(NoPairAvailable, match="3 tried already"):
        await fleet.scheduler.ask(Ask(FACTS, tried))


async def test_a_late_choice_leaves_them_out_too(fleet: Fleet) -> None:
    """The first attempt's decode worker is idle, and still not taken by the second attempt."""
    tried, busy, free = fleet.decodes
    grant = await fleet.scheduler.ask(Ask(FACTS, frozenset({tried.id, free.id})))
    assert grant.pair.decode is busy
    grant.ask = Ask(FACTS, frozenset({tried.id}))
    with Lease(busy, 0), Lease(busy, 0):
        fleet.scheduler.rebind_decode(grant, frozenset())
    assert grant.pair.decode is free
