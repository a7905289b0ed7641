"""Workers that refuse: what is the client's doing and what is a lack of room opens no breaker.

Every breaker here opens at one failure.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.dispatch import blame
from app.sim import SglangSim
from tests.flow.fleet import CHAT, COMPLETIONS, body_of, until
from tests.flow.test_retry_rules import of_leg, two_pairs

LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
TRANSPORTS = pytest.mark.parametrize("transport", ["sglang", "nixl", "mooncake"])
STATUS_OF = {422: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
"""What a vLLM worker says for it; it has no 422, the first one is 400."""


def refuse(worker: Any, status: int, **headers: str) -> None:
    """Makes a worker refuse its next request."""
    if isinstance(worker, SglangSim):
        worker.faults.refuse(status, headers=headers)
    else:
        worker.faults.refuse(STATUS_OF[status], "No.")


@TRANSPORTS
@LEGS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_breaker_opens(
    stack: AsyncExitStack, model: Path, transport: str, leg: str, stream: bool
) -> None:
    """422, 429 and a bare 503, twice each: passed on, charged to nobody; the next one is served."""
    fleet = await two_pairs(stack, model, transport)
    workers = of_leg(fleet, leg)
    for status in (422, 422, 429, 429, 503, 503):
        for worker in workers:
            refuse(worker, status)
        got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
        passed_on = 400 if status == 422 and transport != "sglang" else status
        assert (got.status, got.error["leg"]) == (passed_on, leg)
        assert fleet.charged == []
        for worker in workers:
            worker.faults.clear()
    assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    await fleet.settle()
    assert fleet.charged == []


@TRANSPORTS
@LEGS
@pytest.mark.parametrize("status", [429, 503])
async def test_full_worker_is_spared(
    stack: AsyncExitStack,
    model: Path,
    transport: str,
    leg: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For a while the other one has all requests; then it is asked again."""
    monkeypatch.setattr(blame, "CAPACITY_BACKOFF_S", 60.0)
    fleet = await two_pairs(stack, model, transport)
    full, other = of_leg(fleet, leg)
    refuse(full, status)
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt="a b"))).status == status
    assert fleet.live(full).is_full(time.monotonic())
    for _ in range(4):
        assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt="c d"))).status == 200
    assert [len(worker.seen) for worker in (full, other)] == [1, 4]
    # As if the while had passed.
    fleet.live(full).set_full_until(time.monotonic())
    for _ in range(2):
        assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt="e f"))).status == 200
    assert [len(worker.seen) for worker in (full, other)] == [2, 5]


@TRANSPORTS
async def test_all_full(stack: AsyncExitStack, model: Path, transport: str) -> None:
    """When every worker said so they are asked all the same: 429 and not 503 is the answer."""
    fleet = await two_pairs(stack, model, transport)
    for _ in range(3):
        for worker in fleet.prefills:
            worker.faults.clear()
            refuse(worker, 429)
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 429
    assert sum(len(worker.seen) for worker in fleet.prefills) == 3


async def test_retry_after_of_the_worker(stack: AsyncExitStack, model: Path) -> None:
    """It is passed on, and is how long the worker is spared."""
    fleet = await two_pairs(stack, model, "sglang")
    full, other = fleet.prefills
    refuse(full, 429, **{"retry-after": "7"})
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.headers["retry-after"]) == (429, "7")
    assert fleet.live(full).is_full(time.monotonic() + 5)
    assert not fleet.live(full).is_full(time.monotonic() + 8)
    assert not fleet.live(other).is_full(time.monotonic())


async def test_503_of_a_sick_worker(stack: AsyncExitStack, model: Path) -> None:
    """One whose probe fails too is not full but broken: the second 503 is charged."""
    fleet = await two_pairs(stack, model, "sglang", health_failure_threshold=100)
    sick, _ = fleet.prefills
    sick.faults.health_down = True
    for n_charged in (0, 1):
        fleet.live(sick).set_full_until(0.0)
        refuse(sick, 503)
        fleet.live(fleet.prefills[1]).set_full_until(float("inf"))
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 503
        assert len(fleet.charged) == n_charged
        await until(lambda: fleet.live(sick).n_failures)
