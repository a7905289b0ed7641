"""Data-parallel ranks as targets: what workers with several ranks are told."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.settings import PrefillUrl
from app.sim import SglangSim, SimConfig, sim_pair
from app.workers.states import State
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, body_of, serving, until
from tests.flow.vllm_fleet import fleet_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTES = pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])


@BOTH
@ROUTES
async def test_legs_are_told_their_ranks(stack: AsyncExitStack, route: str, stream: bool) -> None:
    """SMG's members; prefill's rank is the room's; each rank has its turn."""
    prefill, decode = await stack.enter_async_context(
        sim_pair(prefill={"dp_size": 2}, decode={"dp_size": 3})
    )
    fleet = await stack.enter_async_context(serving([prefill], [decode], dp_aware=True))
    asked = body_of(route, stream=stream)
    for _ in range(6):
        assert (await fleet.ask(route, asked)).status == 200
    for one, other in zip(prefill.seen, decode.seen, strict=True):
        rank = one.body["routed_dp_rank"]
        assert rank == one.room % 2 == other.body["disagg_prefill_dp_rank"]
        assert "disagg_prefill_dp_rank" not in one.body
        assert one.body["stream"] is False
        assert other.body["stream"] is stream
    assert sorted(seen.body["routed_dp_rank"] for seen in prefill.seen) == [0, 0, 0, 1, 1, 1]
    assert sorted(seen.body["routed_dp_rank"] for seen in decode.seen) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("dp_aware", "n_ranks"), [(False, 2), (True, 1)], ids=["not wanted", "one rank"]
)
async def test_others_are_told_nothing(stack: AsyncExitStack, dp_aware: bool, n_ranks: int) -> None:
    """Bodies stay as they are for workers of one rank, and without the flag."""
    both = {"dp_size": n_ranks}
    prefill, decode = await stack.enter_async_context(sim_pair(prefill=both, decode=both))
    fleet = await stack.enter_async_context(serving([prefill], [decode], dp_aware=dp_aware))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    for worker in fleet.workers:
        assert not any("dp_rank" in name for name in worker.seen[0].body)


@pytest.mark.parametrize("more", [{"n": 2}, {"prompt": ["One", "Two"]}], ids=["choices", "batch"])
async def test_children_and_items_share_the_rank(
    stack: AsyncExitStack, more: dict[str, Any]
) -> None:
    """One rank a leg, whatever the number of rooms."""
    both = {"dp_size": 3}
    prefill, decode = await stack.enter_async_context(sim_pair(prefill=both, decode=both))
    fleet = await stack.enter_async_context(serving([prefill], [decode], dp_aware=True))
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, **more))).status == 200
    (rank,) = {seen.body["routed_dp_rank"] for seen in prefill.seen}
    rooms = [seen.room if isinstance(seen.room, list) else [seen.room] for seen in prefill.seen]
    assert {room % 3 for each in rooms for room in each} == {rank}
    assert len({seen.body["routed_dp_rank"] for seen in decode.seen}) == 1


@BOTH
async def test_regular_worker_is_told_its_rank(stack: AsyncExitStack, stream: bool) -> None:
    """One member, no rendezvous."""
    worker = await stack.enter_async_context(SglangSim(SimConfig(role="regular", dp_size=2)))
    fleet = await stack.enter_async_context(serving([], [], regulars=[worker], dp_aware=True))
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    assert sorted(seen.body["routed_dp_rank"] for seen in worker.seen) == [0, 0, 1, 1]
    assert not any(name.startswith(("boot", "disagg")) for name in worker.seen[0].body)


async def test_rank_in_the_url(stack: AsyncExitStack) -> None:
    """Only that rank gets requests, with or without the flag; nobody takes it for a host."""
    both = {"dp_size": 3}
    prefill, decode = await stack.enter_async_context(sim_pair(prefill=both, decode=both))
    fleet = await stack.enter_async_context(
        serving(
            [],
            [],
            prefill=(PrefillUrl(f"{prefill.url}@2", prefill.bootstrap_port),),
            decode=(f"{decode.url}@1",),
        )
    )
    assert [w.state for w in fleet.gateway.registry.workers()] == [State.READY] * 2
    for _ in range(3):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    for one, other in zip(prefill.seen, decode.seen, strict=True):
        assert (one.room % 3, one.body["routed_dp_rank"]) == (2, 2)
        assert (other.body["routed_dp_rank"], other.body["disagg_prefill_dp_rank"]) == (1, 2)
        assert one.body["bootstrap_host"] == "127.0.0.1"
    shown = (await fleet.http.get("/workers")).json()["workers"]
    assert [(w["url"], w["dp_base_url"], w["dp_rank"], w["dp_size"]) for w in shown] == [
        (f"{prefill.url}@2", prefill.url, 2, 3),
        (f"{decode.url}@1", decode.url, 1, 3),
    ]
    assert (await fleet.http.get("/health_generate")).status_code == 200
    assert (await fleet.http.get("/get_server_info")).status_code == 200
    rows = (await fleet.http.get("/get_loads")).json()
    assert (len(rows["loads"]), rows["errors"]) == (6, [])


async def test_ranks_over_the_api(stack: AsyncExitStack) -> None:
    """Each rank is a worker of its own; the whole worker beside it is one too many."""
    worker = await stack.enter_async_context(SglangSim(SimConfig(role="regular", dp_size=2)))
    fleet = await stack.enter_async_context(serving([], []))

    async def add(url: str) -> int:
        return (await fleet.http.post("/workers", json={"url": url})).status_code

    statuses = [await add(f"{worker.url}{rank}") for rank in ("@0", "@1", "@1", "")]
    assert statuses == [202, 202, 409, 409]
    await fleet.ready()
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert sorted(seen.body["routed_dp_rank"] for seen in worker.seen) == [0, 0, 1, 1]
    assert await add(f"{worker.url}@7") == 202
    refused = fleet.gateway.registry.workers()[-1]
    await until(lambda: "registered as rank 7" in refused.last_error)
    answer = await fleet.http.delete(f"/workers/{refused.id}")
    assert answer.status_code == 202


@pytest.mark.parametrize("queue", ["on", "off"])
async def test_queue_knows_the_one_rank(stack: AsyncExitStack, queue: str) -> None:
    """A prefill queue feeds no other rank, either."""
    prefill, decode = await stack.enter_async_context(sim_pair(prefill={"dp_size": 3}))
    fleet = await stack.enter_async_context(
        serving(
            [],
            [decode],
            prefill=(PrefillUrl(f"{prefill.url}@1", prefill.bootstrap_port),),
            prefill_queue=queue,
        )
    )
    for _ in range(3):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert [seen.room % 3 for seen in prefill.seen] == [1, 1, 1]


@BOTH
async def test_vllm_legs_are_pinned(stack: AsyncExitStack, model: Path, stream: bool) -> None:
    """Without a flag: both legs carry a rank, each rank has its turn, the blocks are found."""
    fleet = await fleet_of(stack, model, dp_size=2)
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    for worker in fleet.workers:
        assert sorted(seen.request.data_parallel_rank for seen in worker.seen) == [0, 0, 1, 1]
    assert fleet.counts == {"nixl": 4}
    # vLLM computes the last token of a prompt again, to sample from it.
    assert fleet.decode.counters.computed_prompt_tokens == 4


async def test_vllm_rank_in_the_url(stack: AsyncExitStack, model: Path) -> None:
    """The rank that is named, on both legs."""
    fleet = await fleet_of(stack, model, dp_size=3)
    for worker in fleet.workers:
        await fleet.http.delete(f"/workers/{fleet.live(worker).id}")
    await until(lambda: not fleet.gateway.registry.workers())
    for worker, role, rank in ((fleet.prefill, "prefill", 1), (fleet.decode, "decode", 2)):
        body = {"url": f"{worker.url}@{rank}", "worker_type": role}
        assert (await fleet.http.post("/workers", json=body)).status_code == 202
    await fleet.ready()
    for _ in range(2):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert [seen.request.data_parallel_rank for seen in fleet.prefill.seen] == [1, 1]
    assert [seen.request.data_parallel_rank for seen in fleet.decode.seen] == [2, 2]
