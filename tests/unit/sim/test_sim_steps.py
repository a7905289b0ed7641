"""The timing of the simulated prefill engine, and the worker as a process."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import httpx
import pytest

from app.sim import sim_pair
from app.sim.config import FAKE_HOST
from app.sim.prefix_cache import PrefixCache


async def test_prefill_answers_a_step_after_decode_under_load() -> None:
    """The first prefill answer waits for the next step; decode's does not."""
    slow = {"prefill_tokens_per_s": 100.0, "chunk_tokens": 30}
    async with sim_pair(slow) as (prefill, decode), httpx.AsyncClient(timeout=5) as client:
        ends: dict[str, float] = {}

        async def leg(name: str, url: str, room: int) -> None:
            order = {
                "input_ids": [room * 100 + i for i in range(30)],
                "bootstrap_port": prefill.bootstrap_port,
                "bootstrap_room": room,
            }
            answer = await client.post(url + "/generate", json=order)
            assert answer.status_code == 200
            ends[name] = time.monotonic()

        async with asyncio.TaskGroup() as group:
            for room in (1, 2):
                group.create_task(leg(f"decode{room}", decode.url, room))
                group.create_task(leg(f"prefill{room}", prefill.url, room))
        lag_s = sorted(ends[f"prefill{r}"] - ends[f"decode{r}"] for r in (1, 2))
        assert 0.2 < lag_s[1] < 0.6
        assert abs(lag_s[0]) < 0.15


async def test_rooms_choose_the_rank() -> None:
    """Room % dp_size, seen in the loads of the ranks."""
    async with sim_pair(dp_size=2) as (prefill, decode), httpx.AsyncClient() as client:
        order = {"text": "a b", "bootstrap_port": prefill.bootstrap_port, "bootstrap_room": 5}
        async with asyncio.TaskGroup() as group:
            for sim in (prefill, decode):
                group.create_task(client.post(sim.url + "/generate", json=order))
        loads = (await client.get(prefill.url + "/v1/loads")).json()["loads"]
        assert [load["total_prefill_uncached_tokens"] for load in loads] == [0, 2]


async def test_busy_time_is_of_the_clock_that_others_see() -> None:
    """An engine that is told to run ten times as fast is busy for a tenth of the time."""
    fast = {"prefill_tokens_per_s": 1000.0, "time_scale": 0.1}
    async with sim_pair(fast) as (prefill, _), httpx.AsyncClient() as client:
        order = {"input_ids": list(range(500)), "bootstrap_host": FAKE_HOST, "bootstrap_room": 1}
        assert (await client.post(prefill.url + "/generate", json=order)).status_code == 200
        (load,) = (await client.get(prefill.url + "/v1/loads")).json()["loads"]
    assert load["total_prefill_uncached_tokens"] == 500
    assert load["total_prefill_busy_us"] == pytest.approx(50_000, abs=1)


def test_the_cache_drops_the_leaves_of_old_prompts_first() -> None:
    """A full cache keeps the newest prompt and the root of the older one."""
    cache = PrefixCache(page_size=2, max_tokens=8)
    cache.insert([1, 2, 3, 4, 5, 6])
    cache.insert([7, 8, 9, 10])
    assert cache.match([7, 8, 9, 10, 11]) == 4
    assert cache.match([1, 2, 3, 4, 5, 6, 7]) == 4


async def test_the_command_runs_a_pair() -> None:
    """Both workers are ready, meet over HTTP, take faults, and stop on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.sim", "--pairs", "1", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode().split()
        second = (await process.stdout.readline()).decode().split()
        prefill, decode, port = first[5], second[5], int(first[-1])
        order = {"text": "a b", "bootstrap_port": port, "bootstrap_room": 5}
        async with httpx.AsyncClient() as client, asyncio.TaskGroup() as group:
            leg = group.create_task(client.post(decode + "/generate", json=order))
            await client.post(prefill + "/generate", json=order)
            assert "Simulated answer" in (await leg).json()["text"]
            await client.post(prefill + "/sim/fault", json={"kind": "refuse", "status": 422})
            refused = await client.post(prefill + "/generate", json=order)
            assert refused.status_code == 422
            counters = json.loads((await client.get(prefill + "/sim/counters")).text)
            assert counters["n_seen"] == 2
    finally:
        process.terminate()
        assert await process.wait() == 0
