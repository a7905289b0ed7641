"""Workers that are added and removed under load, for both engines and both connectors."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flow.fleet import COMPLETIONS, GENERATE, Fleet, body_of, until
from tests.flow.kinds import KINDS, ROLES, fleet_of, is_busy, load, new_worker, remove, until_gone

JOINS_WITHIN_S = 1.0
SLOW: dict[str, Any] = {"decode_step_s": 0.02}


@KINDS
async def test_added_decode_takes_load_within_a_second(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """From POST to its first request; and it is removed again without losing any."""
    fleet, (spare,) = await fleet_of(stack, kind, model, n_spare_decodes=1, decode=SLOW)
    async with load(fleet):
        began_s = time.monotonic()
        answer = await fleet.http.post("/workers", json=new_worker(spare, "decode"))
        assert answer.status_code == 202
        await until(lambda: spare.seen)
        assert time.monotonic() - began_s < JOINS_WITHIN_S
        shown = (await fleet.http.get(answer.headers["location"])).json()
        assert (shown["status"], "job_status" in shown) == ("ready", False)
        n_seen = len(spare.seen)
        await until(lambda: len(spare.seen) >= n_seen + 3)
        path = await remove(fleet, spare)
        assert await until_gone(fleet, path) == "drained."


@KINDS
@ROLES
async def test_worker_removed_under_load_loses_nothing(
    stack: AsyncExitStack, model: Path, kind: str, role: str
) -> None:
    """Its streams end whole, it gets no new request, and it is idle when it is gone."""
    slow_prefill = {"lead_s": 0.05}
    fleet, _ = await fleet_of(
        stack, kind, model, n_prefills=2, n_decodes=2, prefill=slow_prefill, decode=SLOW
    )
    worker = (fleet.prefills if role == "prefill" else fleet.decodes)[0]
    async with load(fleet) as running:
        await until(lambda: is_busy(worker))
        path = await remove(fleet, worker)
        # A leg that was granted before may be sent a moment later.
        assert await until_gone(fleet, path) == "drained."
        assert not is_busy(worker)
        n_seen, n_answers = len(worker.seen), len(running.answers)
        await until(lambda: len(running.answers) > n_answers + 6)
    assert len(worker.seen) == n_seen


@KINDS
async def test_last_prefill_finishes_what_it_has(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """Removed in the middle of its prefill, with none to follow: the answer is whole."""
    slow = {"lead_s": 0.2}
    fleet, _ = await fleet_of(stack, kind, model, prefill=slow, decode=SLOW)
    (prefill,) = fleet.prefills

    async def take_away() -> None:
        await until(lambda: is_busy(prefill))
        await remove(fleet, prefill)

    got = await fleet.during(fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=True)), take_away())
    assert (got.status, got.events[-1]) == (200, "[DONE]")
    late = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))
    assert late.status in (404, 503)


@KINDS
async def test_last_decode_finishes_what_it_has(
    stack: AsyncExitStack, model: Path, kind: str
) -> None:
    """Removed while prefill still computes for it: it takes the handoff all the same."""
    fleet, _ = await fleet_of(stack, kind, model, prefill={"lead_s": 0.2}, decode=SLOW)

    async def take_away() -> None:
        await until(lambda: is_busy(fleet.prefills[0]))
        await remove(fleet, fleet.decodes[0])

    got = await fleet.during(fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=True)), take_away())
    assert (got.status, got.events[-1]) == (200, "[DONE]")


@pytest.mark.parametrize("n", [1, 2])
async def test_prefill_stays_until_its_kv_cache_is_fetched(
    stack: AsyncExitStack, model: Path, n: int
) -> None:
    """NIXL: computed, so no load; but there, and shown as such, until decode has the cache."""
    decode = {"transfer_s_per_token": 0.1} | SLOW
    fleet, _ = await fleet_of(stack, "nixl", model, decode=decode)
    (prefill,) = fleet.prefills
    live = fleet.live(prefill)
    seen: list[dict[str, Any]] = []

    async def take_away() -> None:
        await until(lambda: fleet.n_pinned_blocks and fleet.decodes[0].n_active)
        path = await remove(fleet, prefill)
        while fleet.n_pinned_blocks:
            answer = await fleet.http.get(path)
            assert answer.status_code == 200
            seen.append(answer.json()["draining"])
            await asyncio.sleep(0.02)
        assert await until_gone(fleet, path) == "drained."

    body = body_of(COMPLETIONS, stream=True, n=n)
    got = await fleet.during(fleet.ask(COMPLETIONS, body), take_away())
    assert got.events[-1] == "[DONE]"
    first = seen[0]
    assert first["leases_left"] + first["kv_held"] == 1
    if n == 1:
        assert (first["leases_left"], first["kv_held"]) == (0, 1)
    assert (live.n_leases, live.n_held) == (0, 0)


async def test_drain_shows_what_is_left(stack: AsyncExitStack, model: Path) -> None:
    """Leases count down; a second DELETE changes nothing, one with a time moves the deadline."""
    fleet, _ = await fleet_of(stack, "sglang", model, n_decodes=2, decode={"decode_step_s": 0.05})
    decode = fleet.decodes[0]

    async def take_away() -> None:
        await until(lambda: is_busy(decode))
        path = await remove(fleet, decode)
        shown = (await fleet.http.get(path)).json()
        assert (shown["status"], shown["is_healthy"], shown["load"]) == ("draining", False, 1)
        first = shown["draining"]
        assert (first["leases_left"], first["calls_open"] >= 1) == (1, True)
        assert first["deadline"] - first["since"] == pytest.approx(600, abs=0.01)
        await remove(fleet, decode)
        assert (await fleet.http.get(path)).json()["draining"]["deadline"] == first["deadline"]
        await remove(fleet, decode, "?timeout_s=30")
        later = (await fleet.http.get(path)).json()["draining"]
        assert later["since"] == first["since"]
        assert 0 < later["deadline"] - later["since"] - 30 < 5
        assert await until_gone(fleet, path) == "drained."
        again = await fleet.http.delete(path)
        assert (again.status_code, again.json()["message"]) == (
            202,
            "The worker was removed: drained.",
        )

    body = body_of(GENERATE, stream=True, n_tokens=10)
    got = await fleet.during(fleet.ask(GENERATE, body), take_away())
    assert got.events[-1] == "[DONE]"


async def test_cancelled_registration_leaves_nothing(fleet: Fleet) -> None:
    """A worker that nobody serves is a job with its error; removed, it never appears."""
    body = {"url": "http://127.0.0.1:9", "worker_type": "decode"}
    path = (await fleet.http.post("/workers", json=body)).headers["location"]

    async def job() -> dict[str, Any]:
        found: dict[str, Any] = (await fleet.http.get(path)).json()["job_status"]
        return found

    async with asyncio.timeout(5):
        while (await job())["message"] is None:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    asked = await job()
    assert (asked["job_type"], asked["status"]) == ("AddWorker", "processing")
    assert "No connection" in asked["message"]
    assert (await fleet.http.delete(path)).status_code == 202
    assert (await fleet.http.get(path)).status_code == 404
    await asyncio.sleep(0.5)
    listed = (await fleet.http.get("/workers")).json()
    assert listed["total"] == 2
    # Its URL is free.
    again = await fleet.http.post("/workers", json=body)
    assert again.status_code == 202
    assert again.headers["location"] != path
    await fleet.http.delete(again.headers["location"])
