"""Whose requests go first, as prefill sees it: keys, headers of tenants, classes, deadlines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.settings import Settings
from app.sim import SglangSim
from tests.flow.fleet import GENERATE, Fleet, Got, until
from tests.flow.test_prefill_queue import Asked, occupied, queue_of, seen, slow_pair, words

KEYS = {"flood": "sk-flood", "other": "sk-other"}
BY_KEY: dict[str, Any] = {"tenant_api_key": "flood:sk-flood other:sk-other"}
BY_HEADER: dict[str, Any] = {"prefill_queue_share_by": "header:X-Tenant"}
CLASSES = "name=fast,ttft-ms=500,priority=3 name=slow,priority=-3 name=soon,deadline-secs=0.3"


class Line:
    """What is put into the queue of a fleet one after the other."""

    def __init__(self, fleet: Fleet, prefill: SglangSim, clients: asyncio.TaskGroup) -> None:
        self._fleet = fleet
        self._prefill = prefill
        self._clients = clients
        self.asked: list[Asked] = []

    async def add(self, name: str, n_words: int, **headers: str) -> None:
        n_before = queue_of(self._fleet).n_waiting
        asking = self._fleet.ask(GENERATE, words(name, n_words), **headers)
        self.asked.append(self._clients.create_task(asking))
        await until(lambda: queue_of(self._fleet).n_waiting == n_before + 1)

    async def served(self) -> list[str]:
        """The order in which prefill got them."""
        assert {(await task).status for task in self.asked} == {200}
        return [name for name in seen(self._prefill) if name not in ("first", "second")]


@pytest.mark.parametrize("settings", [BY_KEY, BY_HEADER, {"prefill_queue_share_by": "none"}])
async def test_who_floods_does_not_keep_others_waiting(settings: dict[str, Any]) -> None:
    """The other's long request goes after the first of the flood's short ones, not after all."""

    def headers(who: str) -> dict[str, str]:
        return {"authorization": f"Bearer {KEYS[who]}", "X-Tenant": who}

    async with slow_pair(**settings) as (fleet, prefill), asyncio.TaskGroup() as clients:
        fleet.http.headers.update(headers("flood"))
        await occupied(fleet, prefill, clients)
        line = Line(fleet, prefill, clients)
        for _ in range(6):
            await line.add("flood", 300)
        await line.add("other", 600, **headers("other"))
        order = await line.served()
        place = order.index("other")
        assert place == 6 if settings == {"prefill_queue_share_by": "none"} else place <= 1, order


async def test_classes_go_by_priority_and_unknown_ones_are_refused() -> None:
    settings = {"slo_class": CLASSES}
    async with slow_pair(**settings) as (fleet, prefill), asyncio.TaskGroup() as clients:
        await occupied(fleet, prefill, clients)
        line = Line(fleet, prefill, clients)
        for name in ("slow", "", "fast"):
            headers = {"x-slo-class": name} if name else {}
            await line.add(name or "plain", 600, **headers)
        refused = await fleet.ask(GENERATE, words("refused", 9), **{"x-slo-class": "fsat"})
        assert (refused.status, refused.error["code"]) == (400, "unknown_slo_class")
        assert await line.served() == ["fast", "plain", "slow"]


async def refused_early(fleet: Fleet, n_words: int) -> tuple[Got, float]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    got = await fleet.ask(GENERATE, words("soon", n_words), **{"x-slo-class": "soon"})
    return got, loop.time() - began_s


async def test_a_deadline_that_cannot_be_met_is_refused_and_reaches_no_worker() -> None:
    """While the rate is a guess it ends the wait; once it is known it is seen beforehand."""
    settings = {"slo_class": CLASSES}
    async with slow_pair(**settings) as (fleet, prefill), asyncio.TaskGroup() as clients:
        asked = await occupied(fleet, prefill, clients)
        late, waited_s = await refused_early(fleet, 900)
        assert waited_s >= 0.3
        for task in asked:
            await task
        for _ in range(2):
            # Two seconds of work each: enough to believe the rate.
            assert (await fleet.ask(GENERATE, words("first", 4000))).status == 200
        assert queue_of(fleet).view.rank_states()[0].tokens_per_s == pytest.approx(2000, rel=0.2)
        early, waited_s = await refused_early(fleet, 1600)
        assert waited_s < 0.2
        for got in (late, early):
            assert (got.status, got.error["code"]) == (503, "deadline_unreachable")
            assert int(got.headers["retry-after"]) >= 1
        in_time = await fleet.ask(GENERATE, words("in", 90), **{"x-slo-class": "soon"})
        assert in_time.status == 200
        assert "soon" not in seen(prefill)


def test_classes_are_no_fault_without_the_queue() -> None:
    """So that the queue can be switched off and on by one word."""
    assert Settings(prefill_queue="off", slo_class=CLASSES).slo_class[0].name == "fast"
