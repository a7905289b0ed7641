"""Another pair is tried only while nothing has reached an engine."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Fault, FaultKind, SglangSim, sim_pair
from app.workers.states import State
from tests.flow.fleet import CHAT, GENERATE, Fleet, body_of, serving

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
CLIENT_RID = "0123456789abcdef" * 2


@pytest.fixture
async def two_pairs(stack: AsyncExitStack) -> Fleet:
    """A gateway before two simulated pairs."""
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    return await stack.enter_async_context(serving(prefills, decodes))


def of_leg(fleet: Fleet, leg: str) -> list[SglangSim]:
    """The workers of a role."""
    return list(fleet.prefills if leg == "prefill" else fleet.decodes)


def n_seen(workers: Any) -> list[int]:
    """Generation requests that each worker saw."""
    return [len(worker.seen) for worker in workers]


@BOTH
@LEGS
async def test_refused_connection_means_another_pair(
    two_pairs: Fleet, leg: str, stream: bool
) -> None:
    """The client sees 200; the dead worker is out after one request; each is sent once."""
    dead, alive = of_leg(two_pairs, leg)
    await dead.kill()
    for _ in range(4):
        got = await two_pairs.ask(CHAT, body_of(CHAT, stream=stream))
        assert got.status == 200, got.raw
    await two_pairs.settle()
    assert two_pairs.live(dead).state is State.UNHEALTHY
    assert n_seen([dead, alive]) == [0, 4]
    assert sum(n_seen(two_pairs.prefills)) == sum(n_seen(two_pairs.decodes)) == 4
    assert [w.aborted for w in two_pairs.workers] == [[], [], [], []]
    assert two_pairs.charged == [leg]


@LEGS
async def test_another_attempt_has_another_id(two_pairs: Fleet, leg: str) -> None:
    """The client's own rid is used by the first attempt only; both legs agree on the new one."""
    dead, _ = of_leg(two_pairs, leg)
    body = body_of(GENERATE, rid=CLIENT_RID)
    await dead.kill()
    for _ in range(2):
        assert (await two_pairs.ask(GENERATE, body)).status == 200
    rids = sorted(seen.rid for worker in of_leg(two_pairs, "decode") for seen in worker.seen)
    assert rids == sorted(seen.rid for worker in two_pairs.prefills for seen in worker.seen)
    assert len(set(rids)) == 2
    assert CLIENT_RID in rids


@BOTH
@LEGS
async def test_one_pair_only(fleet: Fleet, leg: str, stream: bool) -> None:
    """502 that names the leg and no address; the other worker was asked nothing."""
    (dead,) = of_leg(fleet, leg)
    await dead.kill()
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["code"]) == (502, "worker_unreachable")
    assert got.error["leg"] == leg
    assert got.error["message"] == f"the {leg} worker could not be reached"
    assert str(dead.port) in fleet.live(dead).last_error
    assert n_seen(fleet.workers) == [0, 0]
    await fleet.settle()
    assert fleet.charged == [leg]


async def test_no_pair_is_left(two_pairs: Fleet) -> None:
    """With both decode workers dead each is tried once, and the last failure is shown."""
    for dead in two_pairs.decodes:
        await dead.kill()
    got = await two_pairs.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, "decode")
    assert two_pairs.charged == ["decode", "decode"]
    assert n_seen(two_pairs.prefills) == [0, 0]


async def test_limit_of_attempts(stack: AsyncExitStack) -> None:
    """``--disable-retries`` shows the first failure though another pair is there."""
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    fleet = await stack.enter_async_context(serving(prefills, decodes, disable_retries=True))
    for dead in decodes:
        await dead.kill()
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 502
    assert fleet.charged == ["decode"]


@BOTH
@LEGS
@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=FaultKind.RESET, times=None),
        Fault(kind=FaultKind.REFUSE, status=500, times=None),
        Fault(kind=FaultKind.REFUSE, status=503, times=None),
        Fault(kind=FaultKind.GARBAGE, times=None),
    ],
    ids=["reset", "500", "503", "garbage"],
)
async def test_nothing_is_sent_twice(
    two_pairs: Fleet, leg: str, fault: Fault, stream: bool
) -> None:
    """Once a byte was sent the first failure is the answer, though another pair is there."""
    for worker in of_leg(two_pairs, leg):
        worker.faults.add(fault)
    got = await two_pairs.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status >= 500, got.error["leg"]) == (True, leg)
    assert sum(n_seen(two_pairs.prefills)) == sum(n_seen(two_pairs.decodes)) == 1


@BOTH
@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_pooled_connections_that_ended_are_no_failure(
    fleet: Fleet, how: str, stream: bool
) -> None:
    """A worker may close an idle connection at any time; the next request takes a new one."""
    assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    await fleet.settle()
    for worker in fleet.workers:
        assert fleet.gateway.clients.get(fleet.live(worker)).pool.n_idle
        if how == "eof":
            for connection in tuple(worker._listener._state.connections):
                connection.transport.close()
        else:
            await worker.kill()
            await worker.restart()
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert got.status == 200
    assert n_seen(fleet.workers) == [2, 2]
    assert fleet.charged == []
