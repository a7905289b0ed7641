"""Time to first token of a simulated fleet in real time, by router and policy, on a trace.

::

    python tests/bench/routing.py TRACE [--rows 2000:3000] [--rate 0.85] [--speed 10] [--rounds 1]
    SMG=/path/to/its/python python tests/bench/routing.py TRACE

The fleet is simulated SGLang workers in a process of their own: chunked prefill with two batches
in flight, transfer, decode. ``--speed`` makes its clock and the trace run faster; all times are
printed in the fleet's seconds. Every router sees the same requests at the same moments, one
router at a time, each on a fleet started anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from children import ENVIRONMENT, REPOSITORY, Bench, BenchFailed, free_port
from traces import prompt

from app.twin.report import HEADING, Figures
from app.twin.trace import Row, read_trace

SHRINK = 4
_BODY_END_S = 600.0


@dataclass(frozen=True, slots=True)
class Router:
    """One contestant: a name, the program, and its flags."""

    name: str
    flags: tuple[str, ...]
    is_smg: bool = False


ROUTERS = (
    Router("queue", ("--prefill-queue", "on")),
    Router("cache_aware", ("--policy", "cache_aware")),
    Router("least_load", ("--policy", "least_load")),
    Router("smg cache_aware", ("--policy", "cache_aware"), is_smg=True),
    Router("smg power_of_two", ("--policy", "power_of_two"), is_smg=True),
)


class Fleet:
    """The simulated workers of one run."""

    def __init__(self, bench: Bench, asked: argparse.Namespace) -> None:
        first = _free_ports(2 * asked.pairs + asked.pairs)
        self.prefills = [first + 2 * i for i in range(asked.pairs)]
        self.decodes = [port + 1 for port in self.prefills]
        self.bootstraps = [first + 2 * asked.pairs + i for i in range(asked.pairs)]
        command = [sys.executable, "-m", "app.sim", "--pairs", str(asked.pairs)]
        command += ["--port", str(first), "--bootstrap-port", str(self.bootstraps[0])]
        command += ["--prefill-tokens-per-s", str(asked.tokens_per_s / SHRINK)]
        command += ["--chunk-tokens", str(asked.chunk // SHRINK)]
        command += ["--lead-s", str(asked.lead)]
        command += ["--transfer-s-per-token", str(asked.transfer * SHRINK)]
        command += ["--decode-step-s", str(0.02 * SHRINK), "--time-scale", str(1 / asked.speed)]
        command += ["--page-size", str(512 // SHRINK)]
        command += ["--max-total-tokens", str(2_048_000 // SHRINK)]
        environment = ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
        self._child, log = bench.spawn(
            "fleet", command, stdout=subprocess.PIPE, env=environment, cwd=bench.folder
        )
        assert self._child.stdout is not None
        for _ in range(2 * asked.pairs):
            if not self._child.stdout.readline():
                raise BenchFailed(f"the fleet did not start: {log.read_text()[-2000:]}")

    def flags(self) -> list[str]:
        """The flags that name the workers."""
        flags: list[str] = []
        for port, bootstrap in zip(self.prefills, self.bootstraps, strict=True):
            flags += ["--prefill", f"http://127.0.0.1:{port}", str(bootstrap)]
        for port in self.decodes:
            flags += ["--decode", f"http://127.0.0.1:{port}"]
        return flags

    def counters(self) -> tuple[float, int]:
        """Busy seconds and computed tokens of all prefill workers."""
        busy_us = n_tokens = 0
        for port in self.prefills:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/loads", timeout=10) as answer:
                row = json.load(answer)["loads"][0]
            busy_us += row["total_prefill_busy_us"]
            n_tokens += row["total_prefill_uncached_tokens"]
        return busy_us / 1e6, n_tokens

    def stop(self) -> None:
        """Ends the process."""
        self._child.terminate()
        self._child.wait(10)


def _free_ports(n_ports: int) -> int:
    """The first of some neighbouring ports that are free, below those the system hands out."""
    for first in random.sample(range(20_000, 30_000), 200):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + n_ports):
                    probe = sockets.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise BenchFailed(f"no {n_ports} neighbouring ports are free")


def _start_router(bench: Bench, router: Router, fleet: Fleet, asked: argparse.Namespace) -> int:
    port = free_port()
    module = ["-m", "smg", "launch"] if router.is_smg else ["-m", "app"]
    python = ENVIRONMENT["SMG"] if router.is_smg else sys.executable
    command = [python, *module, "--pd-disaggregation", *fleet.flags(), *router.flags]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    command += ["--prometheus-port", str(free_port())]
    if router.name == "queue":
        command += ["--prefill-poll-ms", str(100 / asked.speed)]
    if router.is_smg:
        command += ["--load-monitor-interval", "1"]
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("TANDEM_")}
    if not router.is_smg:
        environment["PYTHONPATH"] = str(REPOSITORY)
    _, log = bench.spawn(router.name, command, cwd=bench.folder, env=environment)
    deadline_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=2):
                return port
        except OSError:
            if time.monotonic() > deadline_s:
                raise BenchFailed(f"{router.name}: {log.read_text()[-2000:]}") from None
            time.sleep(0.2)


async def _play(port: int, rows: list[Row], texts: list[str], speed: float) -> list[float | None]:
    """Sends every row at its moment; returns each one's time to its first event, or ``None``."""
    found: list[float | None] = [None] * len(rows)
    began_s = time.perf_counter()

    async def one(number: int, row: Row) -> None:
        await asyncio.sleep(max(0.0, row.at_s / speed - (time.perf_counter() - began_s)))
        body = json.dumps(
            {
                "model": "sim-model",
                "messages": [{"role": "user", "content": texts[number]}],
                "max_tokens": max(1, row.n_output // SHRINK),
                "stream": True,
            }
        ).encode()
        asked_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            async with asyncio.timeout(_BODY_END_S):
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head[:20]:
                    return
                text = b""
                while b'"content":"' not in text.replace(b'"content":""', b"").replace(b" ", b""):
                    piece = await reader.read(65536)
                    if not piece:
                        return
                    text += piece
                found[number] = (time.perf_counter() - asked_s) * speed
                while await reader.read(65536):
                    pass
        finally:
            writer.close()

    async with asyncio.TaskGroup() as requests:
        for number, row in enumerate(rows):
            requests.create_task(one(number, row))
    return found


def _run(router: Router, rows: list[Row], texts: list[str], asked: argparse.Namespace) -> Figures:
    with Bench() as bench:
        fleet = Fleet(bench, asked)
        port = _start_router(bench, router, fleet, asked)
        busy_before_s, tokens_before = fleet.counters()
        found = asyncio.run(_play(port, rows, texts, asked.speed))
        busy_s, n_tokens = fleet.counters()
    n_computed = (n_tokens - tokens_before) * SHRINK
    n_all = sum(row.n_prompt for row in rows)
    times = [time_s for time_s in found if time_s is not None]
    if not times:
        raise BenchFailed(f"{router.name} answered nothing")
    n_lost = len(rows) - len(times)
    return Figures(times, busy_s - busy_before_s, 1 - n_computed / n_all, None, n_lost)


def main() -> int:
    """Plays the trace through every router and prints a line for each."""
    asked = _arguments()
    first, last = map(int, asked.rows.split(":"))
    rows = read_trace(asked.trace, first, last, asked.rate)
    texts = [prompt(row, SHRINK) for row in rows]
    routers = [
        r for r in ROUTERS if (not r.is_smg or "SMG" in ENVIRONMENT) and asked.only in r.name
    ]
    print(f"{len(rows)} requests over {rows[-1].at_s:.0f} s, {asked.pairs} pairs", flush=True)
    print(HEADING, flush=True)
    try:
        for _ in range(asked.rounds):
            for router in routers:
                figures = _run(router, rows, texts, asked)
                print(figures.line(router.name), flush=True)
    except BenchFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("trace", type=Path)
    flags.add_argument("--rows", default="2000:3000", metavar="FIRST:LAST")
    flags.add_argument("--rate", type=float, default=0.85, help="of the trace's own")
    flags.add_argument("--speed", type=float, default=10.0, help="of the fleet's clock")
    flags.add_argument("--rounds", type=int, default=1)
    flags.add_argument("--only", default="", help="routers whose name contains this")
    flags.add_argument("--pairs", type=int, default=4)
    flags.add_argument("--tokens-per-s", type=float, default=10_000.0)
    flags.add_argument("--chunk", type=int, default=8192)
    flags.add_argument("--lead", type=float, default=0.15)
    flags.add_argument("--transfer", type=float, default=1e-5)
    return flags.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
