"""A gateway of several processes, as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, body_of, until
from tests.flow.process import ROOT, GatewayProcess, free_port, pair_flags, running
from tests.flow.raw_client import RawClient, head_of, post_of
from tests.soak.changes import measure, one_each

pytestmark = pytest.mark.timeout(120)
ENDING_S = 15.0
MANY_START_S = 60.0
"""Four processes on a machine that is busy."""
QUICK = ("--shutdown-settle-secs", "0")


def pids(gateway: GatewayProcess) -> dict[str, int]:
    """The processes by name, the latest of each."""
    return {line["name"]: line["pid"] for line in gateway.lines("process started")}


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def get(client: RawClient, path: str) -> Any:
    """What a GET answers."""
    await client.send(head_of("GET", path))
    status, _, body = await client.answer()
    assert status == 200, body
    return json.loads(body)


async def start(
    stack: AsyncExitStack, n_pipes: int, *flags: str, **decode: float
) -> tuple[GatewayProcess, str]:
    """So many processes before a pair of simulated workers; returns the decode worker's URL, too.

    Args:
        stack: Ends all of it.
        n_pipes: Processes that take connections.
        flags: Of the gateway.
        decode: What the decode worker is like.
    """
    pair = await stack.enter_async_context(sim_pair(decode=decode))
    asked = pair_flags(*pair, "--workers", str(n_pipes), *QUICK, *flags)
    made = running(asked, start_s=MANY_START_S, n_pipes=n_pipes)
    return await stack.enter_async_context(made), pair[1].url


async def connect(gateway: GatewayProcess, n: int, stack: AsyncExitStack) -> list[RawClient]:
    """So many connections, so that every pipe has some."""
    return [await stack.enter_async_context(gateway.connected()) for _ in range(n)]


async def test_connections_are_spread_evenly(stack: AsyncExitStack) -> None:
    """240 of them over 4 processes: each has 60, within 5 standard deviations."""
    gateway, _ = await start(stack, 4)
    clients = await connect(gateway, 240, stack)
    for client in clients:
        await get(client, "/v1/models")

    def asked() -> list[str]:
        lines = gateway.lines("request")
        return [line["process"] for line in lines if line["path"] == "/v1/models"]

    await until(lambda: len(asked()) == 240)
    shares = Counter(asked())
    assert len(shares) == 4, shares
    assert all(27 <= n <= 93 for n in shares.values()), shares


async def test_a_change_is_seen_by_all_at_once(stack: AsyncExitStack) -> None:
    """All processes know within 200 ms what REST has changed, and serve by it.

    Nearly always within 10; the bound is for a machine that is busy. ``python -m
    tests.soak.changes`` measures it.
    """
    gateway, decode_url = await start(stack, 3)
    delays = await measure(gateway, 3, decode_url, n_changes=3)
    assert len(delays.removed) == len(delays.added) == 3
    assert delays.largest_s < 1.0
    for client in await one_each(gateway, 3, stack):
        await client.send(post_of(CHAT, body_of(CHAT)))
        assert (await client.answer())[0] == 200


async def test_one_scrape_shows_all(stack: AsyncExitStack) -> None:
    """Whoever is asked gives the sum, and it does not fall when a process dies."""
    gateway, _ = await start(stack, 2, "--metrics-on-main")
    clients = await connect(gateway, 12, stack)
    for client in clients:
        await client.send(post_of(CHAT, body_of(CHAT)))
        assert (await client.answer())[0] == 200

    async def figures(client: RawClient) -> dict[str, float]:
        await client.send(head_of("GET", "/metrics"))
        status, _, page = await client.answer()
        assert status == 200
        lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def n_requests(found: dict[str, float]) -> float:
        return sum(n for name, n in found.items() if name.startswith("tandem_requests_total"))

    seen = [await figures(client) for client in clients]
    assert [n_requests(found) for found in seen] == [12.0] * 12
    assert seen[0]['tandem_workers{role="decode",state="ready"}'] == 1
    assert seen[0]['tandem_processes{kind="pipe"}'] == 2
    assert seen[0]["process_open_fds"] > 20
    dead = pids(gateway)["pipe-1"]
    os.kill(dead, signal.SIGKILL)
    await until(lambda: pids(gateway)["pipe-1"] != dead)
    again = await stack.enter_async_context(gateway.connected())
    async with asyncio.timeout(10.0):
        while (found := await figures(again))['tandem_processes{kind="pipe"}'] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert n_requests(found) == 12.0


async def test_whoever_is_asked_shows_the_requests_of_all(stack: AsyncExitStack) -> None:
    """In the order of their ends, as lines, as a trace and as the last minutes."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    flags = pair_flags(prefill, decode, "--workers", "2", "--prefill-queue", "on", *QUICK)
    gateway = await stack.enter_async_context(running(flags, start_s=MANY_START_S))
    clients = await connect(gateway, 12, stack)

    def has_ended(n: int) -> bool:
        return len(gateway.outcomes(CHAT)) == n

    for n, client in enumerate(clients, 1):
        await client.send(post_of(CHAT, body_of(CHAT)))
        assert (await client.answer())[0] == 200
        await until(partial(has_ended, n))
    lines = [line for line in gateway.lines("request") if line["path"] == CHAT]
    assert len({line["process"] for line in lines}) == 2
    asked = [line["request_id"] for line in lines]

    async def rows(client: RawClient, path: str) -> list[dict[str, Any]]:
        await client.send(head_of("GET", path))
        chunks = await client.until(b"\r\n0\r\n\r\n")
        return [json.loads(line) for line in chunks.splitlines() if line.startswith(b"{")]

    for client in clients:
        assert [row["request_id"] for row in await rows(client, "/flights")] == asked
    assert [row["request_id"] for row in await rows(clients[0], "/flights?last=5")] == asked[-5:]
    trace = await rows(clients[0], "/flights/trace")
    assert [row["hash_ids"] for row in trace] == [[0]] * 12
    for client in clients[:4]:
        view = await get(client, "/flights/live?window_s=60")
        assert view["flows"] == [{"prefill": prefill.url, "decode": decode.url, "requests": 12}]
        assert [one["id"] for one in view["recent"]] == asked[::-1]
        assert [row["requests"]["ok"] for row in view["workers"]] == [12, 12]
        assert view["workers"][0]["capacity_tokens_per_s"] > 0
        assert (view["pipes"], view["queue"]["n_waiting"]) == (2, 0)


async def test_a_dead_pipe_is_started_anew_and_holds_nothing(stack: AsyncExitStack) -> None:
    """Its leases are given back; the requests of the other one never notice."""
    gateway, _ = await start(stack, 2, decode_step_s=0.03)
    clients = await connect(gateway, 12, stack)
    for client in clients:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True, n_tokens=80)))
        await client.until(b"data: ")
    assert sum(await gateway.loads()) > 0
    dead = pids(gateway)["pipe-2"]
    os.kill(dead, signal.SIGKILL)
    await until(lambda: pids(gateway)["pipe-2"] != dead)
    n_whole = 0
    for client in clients:
        try:
            await client.until(b"data: [DONE]")
            n_whole += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
    assert 0 < n_whole < 12
    async with asyncio.timeout(5.0):
        while any(await gateway.loads()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for client in await connect(gateway, 12, stack):
        await client.send(post_of(CHAT, body_of(CHAT)))
        assert (await client.answer())[0] == 200


async def test_a_stop_lets_requests_finish_and_leaves_nobody(stack: AsyncExitStack) -> None:
    """On every pipe; then all processes are gone, and the exit code is 0."""
    gateway, _ = await start(stack, 2, decode_step_s=0.05)
    clients = await connect(gateway, 8, stack)
    for client in clients:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True, n_tokens=20)))
        await client.until(b"data: ")
    started = pids(gateway)
    assert set(started) == {"brain", "pipe-1", "pipe-2"}
    gateway.signal(signal.SIGTERM)
    for client in clients:
        await client.until(b"data: [DONE]")
    assert await gateway.exit_code(ENDING_S) == 0
    assert not any(map(is_there, started.values()))


async def test_a_second_signal_ends_at_once(stack: AsyncExitStack) -> None:
    gateway, _ = await start(stack, 2, decode_step_s=0.5)
    (client,) = await connect(gateway, 1, stack)
    await client.send(post_of(CHAT, body_of(CHAT, stream=True, n_tokens=100)))
    await client.until(b"data: ")
    started = pids(gateway)
    gateway.signal(signal.SIGTERM)
    await until(lambda: len(gateway.lines("stopped listening")) == 2)
    gateway.signal(signal.SIGTERM)
    assert b"shutting_down" in await client.rest()
    assert await gateway.exit_code(ENDING_S) == 128 + signal.SIGTERM
    assert not any(map(is_there, started.values()))


async def test_nobody_outlives_the_supervisor(stack: AsyncExitStack) -> None:
    """However it ended."""
    gateway, _ = await start(stack, 2)
    started = pids(gateway)
    gateway.signal(signal.SIGKILL)
    async with asyncio.timeout(ENDING_S):
        while any(map(is_there, started.values())):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def refusal(*flags: str, environ: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Exit code and log of a gateway that does not start."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "--host", "127.0.0.1", "--port", str(free_port())),
        *("--prometheus-port", "none", *flags),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (environ or {}),  # noqa: TID251 - what the child gets
    )
    async with asyncio.timeout(MANY_START_S):
        _, said = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said.decode().splitlines()


async def test_what_is_for_one_process_is_refused() -> None:
    """With one sentence, whoever asked for several."""
    code, said = await refusal("--workers", "2", "--key-rate-limit", "5")
    assert (code, len(said)) == (2, 1)
    assert "--key-rate-limit" in said[0]
    assert "--workers 1, not 2" in said[0]
    limits = "--max-concurrent-requests", "2"
    code, said = await refusal(*limits, environ={"WEB_CONCURRENCY": "3"})
    assert (code, len(said)) == (2, 1)
    assert "--max-concurrent-requests 2" in said[0]
    code, said = await refusal(environ={"WEB_CONCURRENCY": "many"})
    assert (code, len(said)) == (2, 1)
    assert "WEB_CONCURRENCY=" in said[0]


async def test_a_fault_that_only_the_processes_find_ends_all(tmp_path: Path) -> None:
    """Nobody is started again and again for it."""
    code, said = await refusal("--workers", "2", "--api-keys-file", str(tmp_path / "none"))
    assert code == 2
    assert not any("process died" in line for line in said)
