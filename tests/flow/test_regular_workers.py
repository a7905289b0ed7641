"""Regular workers: one leg, which does both phases; whatever holds for a pair holds for them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Fault, FaultKind, SglangSim, SimConfig, sim_pair
from app.workers.states import State
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, events, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTES = pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
WORD = {"choices": [{"index": 0, "delta": {"content": "a"}, "text": "a", "finish_reason": None}]}


async def fleet_of(
    stack: AsyncExitStack, n_workers: int = 1, settings: dict[str, Any] | None = None, **sim: Any
) -> Fleet:
    """A gateway before regular workers only."""
    sims = [SglangSim(SimConfig(role="regular", **sim)) for _ in range(n_workers)]
    for one in sims:
        await stack.enter_async_context(one)
    return await stack.enter_async_context(serving([], [], regulars=sims, **(settings or {})))


@BOTH
@ROUTES
async def test_one_leg_and_nothing_of_a_pair(
    stack: AsyncExitStack, route: str, stream: bool
) -> None:
    """The worker gets the client's own body and an id, computes the prompt, and is given back."""
    fleet = await fleet_of(stack)
    (worker,) = fleet.regulars
    asked = body_of(route, stream=stream)
    got = await fleet.ask(route, asked)
    assert (got.status, got.is_stream) == (200, stream)
    assert "x-tandem-leg" not in got.headers
    (seen,) = worker.seen
    assert seen.body.pop("rid")
    assert seen.body == asked
    await fleet.settle()
    assert worker.computed_prompt_tokens > 0
    assert worker.aborted == []
    (live,) = fleet.gateway.registry.workers()
    assert live.breaker.is_closed
    stats = (await fleet.http.get("/workers")).json()["stats"]
    assert stats["without_prefill"] == {"no_pair": 1}


@BOTH
@pytest.mark.parametrize(
    ("route", "more", "n_choices"),
    [
        (CHAT, {"n": 3}, 3),
        (COMPLETIONS, {"prompt": ["One", "Two"]}, 2),
        (COMPLETIONS, {"prompt": ["One", "Two"], "n": 2}, 4),
    ],
    ids=["choices", "batch", "choices of a batch"],
)
async def test_several_choices_are_one_request(
    stack: AsyncExitStack, route: str, more: dict[str, Any], n_choices: int, stream: bool
) -> None:
    """No fan-out: the engine's own sampling works where there is no room to meet in."""
    fleet = await fleet_of(stack)
    got = await fleet.ask(route, body_of(route, stream=stream, **more))
    assert got.status == 200, got.raw
    assert len(fleet.regulars[0].seen) == 1
    if not stream:
        assert len(got.json["choices"]) == n_choices
    else:
        assert got.events[-1] == "[DONE]"


async def test_client_rid_is_kept(stack: AsyncExitStack) -> None:
    """As for pairs: the client's own id, where it can be used."""
    fleet = await fleet_of(stack)
    rid = "a" * 32
    assert (await fleet.ask(GENERATE, body_of(GENERATE, rid=rid))).status == 200
    assert fleet.regulars[0].seen[0].rid == rid


async def test_workers_share_the_requests(stack: AsyncExitStack) -> None:
    """The policy chooses among them, by leases."""
    fleet = await fleet_of(stack, 2)
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert [len(worker.seen) for worker in fleet.regulars] == [2, 2]


@BOTH
async def test_client_leaves(stack: AsyncExitStack, stream: bool) -> None:
    """The engine is told by id; nobody pays."""
    fleet = await fleet_of(stack, prefill_tokens_per_s=50.0, disconnect_notice_s=60.0)
    (worker,) = fleet.regulars
    body = body_of(COMPLETIONS, stream=stream, prompt="word " * 200)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(COMPLETIONS, body))
        await until(lambda: worker.n_active)
        asking.cancel()
    await fleet.settle()
    assert worker.aborted == [worker.seen[0].rid]
    assert fleet.charged == []


async def test_dead_worker_is_replaced(stack: AsyncExitStack) -> None:
    """Nothing reached it, so another one serves; it is charged and out at once."""
    fleet = await fleet_of(stack, 2)
    dead, other = fleet.regulars
    await dead.kill()
    for _ in range(2):
        got = await fleet.ask(CHAT, body_of(CHAT))
        assert got.status == 200
    assert len(other.seen) == 2
    assert fleet.live(dead).state is not State.READY
    await dead.restart()
    await until(lambda: fleet.live(dead).state is State.READY)


async def test_no_other_worker(stack: AsyncExitStack) -> None:
    """The error names no leg: there was none."""
    fleet = await fleet_of(stack)
    await fleet.regulars[0].kill()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (502, "worker_unreachable")
    assert got.error.get("leg") is None
    assert got.error["message"] == "the worker could not be reached"
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert got.status == 503
    assert "no regular worker" in got.error["message"]
    assert "prefill" not in got.error["message"]
    await fleet.regulars[0].restart()
    await fleet.ready()


@pytest.mark.parametrize(
    ("status", "charged"), [(422, []), (429, []), (503, []), (500, ["regular"])]
)
async def test_refusals_pass_through(
    stack: AsyncExitStack, status: int, charged: list[str]
) -> None:
    """The worker's own status; only a failure of its own is charged, and it is not tried again."""
    fleet = await fleet_of(stack, 2)
    for worker in fleet.regulars:
        worker.faults.add(Fault(kind=FaultKind.REFUSE, route=CHAT, status=status))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (status, "worker_rejected")
    assert sum(len(worker.seen) for worker in fleet.regulars) == 1
    assert fleet.charged == charged


async def test_retry_after_5xx_if_wanted(stack: AsyncExitStack) -> None:
    """The other worker serves it, under another id."""
    fleet = await fleet_of(stack, 2, {"retry_on_5xx": True})
    fleet.regulars[0].faults.add(Fault(kind=FaultKind.REFUSE, route=CHAT))
    answers = [await fleet.ask(CHAT, body_of(CHAT)) for _ in range(2)]
    assert [got.status for got in answers] == [200, 200]
    assert sorted(got.headers["x-tandem-attempts"] for got in answers) == ["1", "2"]
    rids = [seen.rid for worker in fleet.regulars for seen in worker.seen]
    assert (len(rids), len(set(rids))) == (3, 3)


async def test_broken_stream(stack: AsyncExitStack) -> None:
    """What was relayed stands; then one error event without a leg, and no [DONE]."""
    worker = ScriptedWorker("null", events(WORD, is_done=False))
    await stack.enter_async_context(worker)
    fleet = await stack.enter_async_context(serving([], [], regulars=[worker]))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert got.status == 200
    assert got.error["code"] == "worker_broken"
    assert got.error.get("leg") is None
    await fleet.settle()
    assert fleet.charged == ["regular"]


async def test_garbage_is_a_failure(stack: AsyncExitStack) -> None:
    """200 with a body that is not JSON."""
    worker = ScriptedWorker("null", whole(200, b"<html>"))
    await stack.enter_async_context(worker)
    fleet = await stack.enter_async_context(serving([], [], regulars=[worker]))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (502, "worker_broken")
    assert fleet.charged == ["regular"]


async def test_silence_ends_it(stack: AsyncExitStack) -> None:
    """Its silence is its own: charged, 504 without a leg."""
    fleet = await fleet_of(
        stack, settings={"prefill_timeout_secs": 0.2, "first_token_timeout_secs": 0.2}
    )
    (worker,) = fleet.regulars
    worker.faults.add(Fault(kind=FaultKind.HANG, route=CHAT))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.error["code"], got.error.get("leg")) == (504, "worker_timeout", None)
    await fleet.settle()
    assert len(worker.seen) == 1
    assert fleet.charged == ["regular"]


async def test_drain_lets_it_finish(stack: AsyncExitStack) -> None:
    """Removed while it streams: the answer is whole, the worker goes afterwards."""
    fleet = await fleet_of(stack, decode_step_s=0.02)
    (worker,) = fleet.regulars
    live = fleet.live(worker)

    async def remove() -> None:
        await until(lambda: worker.n_active)
        assert (await fleet.http.delete(f"/workers/{live.id}")).status_code == 202

    asking = fleet.ask(CHAT, body_of(CHAT, stream=True, n_tokens=8))
    got = await fleet.during(asking, remove())
    assert got.events[-1] == "[DONE]"
    await until(lambda: not fleet.gateway.registry.workers())


async def test_added_over_the_api(stack: AsyncExitStack) -> None:
    """The role of a worker that a body gives none is regular, as SMG has it."""
    fleet = await stack.enter_async_context(serving([], []))
    worker = await stack.enter_async_context(SglangSim(SimConfig(role="regular")))
    assert (await fleet.http.get("/readiness")).status_code == 503
    answer = await fleet.http.post("/workers", json={"url": worker.url})
    assert answer.status_code == 202
    await fleet.ready()
    assert (await fleet.http.get("/readiness")).status_code == 200
    models = (await fleet.http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in models] == ["sim-model"]
    text = (await fleet.http.get("/health_generate")).text
    assert text == f"OK: regular {worker.url}"
    assert (await fleet.ask(CHAT, body_of(CHAT, model="sim-model"))).status == 200
    got = await fleet.ask(CHAT, body_of(CHAT, model="other"))
    assert (got.status, got.error["code"]) == (404, "model_not_found")
    assert len(worker.seen) == 1


async def test_pairs_come_first(stack: AsyncExitStack) -> None:
    """In a mixed pool a pair serves while it can; a regular worker when it cannot."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    regular = await stack.enter_async_context(SglangSim(SimConfig(role="regular")))
    fleet = await stack.enter_async_context(serving([prefill], [decode], regulars=[regular]))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert (len(decode.seen), len(regular.seen)) == (1, 0)
    await prefill.kill()
    for n_served in (1, 2):
        got = await fleet.ask(CHAT, body_of(CHAT))
        # The first one finds prefill dead while nothing has reached an engine.
        assert (got.status, len(regular.seen)) == (200, n_served)
    assert (await fleet.http.get("/readiness")).status_code == 200
    await prefill.restart()
    await fleet.ready()
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert (len(decode.seen), len(regular.seen)) == (2, 2)


async def test_queue_does_not_hold_them_up(stack: AsyncExitStack) -> None:
    """With a prefill queue they serve at once, too."""
    fleet = await fleet_of(stack, settings={"prefill_queue": "on"})
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert len(fleet.regulars[0].seen) == 1
