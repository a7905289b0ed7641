"""What asking busy prefill workers for their load costs: CPU of the gateway's process.

Stubs in a process of their own answer what SGLang 0.5.23 answers; every worker counts as busy.
Run it by ``make bench-scheduling``, or alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import cast

import uvloop

from app.scheduling.load_watch import LoadWatch
from app.upstream.clients import WorkerClients
from app.upstream.loads import load_rows
from app.upstream.sglang_worker import WorkerRefused
from app.workers.lease import Lease
from app.workers.rank_load import RankLoad
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerSpec

_ROW = {
    "dp_rank": 0,
    "timestamp": 1.0,
    "num_running_reqs": 3,
    "num_waiting_reqs": 2,
    "num_used_tokens": 120_000,
    "max_total_num_tokens": 2_000_000,
    "token_usage": 0.06,
    "gen_throughput": 0.0,
    "cache_hit_rate": 0.31,
    "utilization": 0.9,
    "max_running_requests": 4096,
    "num_waiting_uncached_tokens": 4096,
    "total_prefill_uncached_tokens": 123_456_789,
    "total_prefill_busy_us": 9_876_543_210,
    "memory": {"weight_gb": 1.0, "kv_cache_gb": 2.0, "graph_gb": 0.1, "token_capacity": 2_000_000},
    "disaggregation": {
        "mode": "prefill",
        "prefill_bootstrap_queue_reqs": 1,
        "prefill_inflight_queue_reqs": 0,
        "kv_transfer_speed_gb_s": 0.0,
        "kv_transfer_latency_ms": 0.0,
    },
}


class _Stub(asyncio.Protocol):
    """Answers every request with the same loads."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._write: Callable[[bytes], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection."""
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        """Answers what ends here; a GET has no body."""
        self._write(self._answer * data.count(b"\r\n\r\n"))


def _serve(n_workers: int, ports: Connection) -> None:
    body = json.dumps({"timestamp": 1.0, "dp_rank_count": 1, "loads": [_ROW]}).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % len(body)
        + body
    )

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        found = []
        for _ in range(n_workers):
            server = await loop.create_server(lambda: _Stub(answer), "127.0.0.1", 0)
            found.append(server.sockets[0].getsockname()[1])
        ports.send(found)
        await asyncio.Event().wait()

    uvloop.run(serve())


async def _poll(ports: list[int], interval_s: float, lasts_s: float) -> tuple[int, float]:
    registry = Registry()
    clients = WorkerClients()
    for port in ports:
        worker = registry.add(WorkerSpec(f"http://127.0.0.1:{port}", Role.PREFILL))
        registry.set_state(worker, State.READY)
        Lease(worker, 0)
    n_taken = 0

    def take(worker: Worker, loads: dict[int, RankLoad]) -> None:
        nonlocal n_taken
        del worker
        n_taken += loads[0].n_waiting_tokens == _ROW["num_waiting_uncached_tokens"]

    watch = LoadWatch(
        registry,
        read=lambda worker: load_rows(clients, worker),
        take=take,
        n_waiting=lambda: 1,
        now_s=time.monotonic,
        interval_s=interval_s,
        on_trouble=lambda worker, why: print(worker.spec.url, why),
        errors=(WorkerRefused,),
    )
    task = asyncio.get_running_loop().create_task(watch.run())
    await asyncio.sleep(1)
    n_taken, began_s = 0, time.process_time()
    await asyncio.sleep(lasts_s)
    busy_s = time.process_time() - began_s
    task.cancel()
    await asyncio.wait([task])
    await clients.aclose()
    return n_taken, busy_s


def main() -> None:
    """Prints the cost by number of workers."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--interval", type=float, default=0.1)
    words.add_argument("--seconds", type=float, default=5.0)
    asked = words.parse_args()
    for n_workers in (16, 100):
        ours, theirs = multiprocessing.Pipe()
        stub = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(n_workers, theirs), daemon=True
        )
        stub.start()
        n_taken, busy_s = uvloop.run(_poll(ours.recv(), asked.interval, asked.seconds))
        stub.kill()
        each_s = asked.interval
        print(
            f"{n_workers:4} workers asked each {each_s:g} s: {n_taken / asked.seconds:6.0f} "
            f"answers/s, {busy_s / max(1, n_taken) * 1e6:5.0f} us of CPU each, "
            f"{busy_s / asked.seconds:5.1%} of a core",
            flush=True,
        )


if __name__ == "__main__":
    main()
