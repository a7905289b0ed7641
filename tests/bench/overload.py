"""A step of five times the load: what is answered, what is refused and how fast, and what after.

::

    .venv/bin/python tests/bench/overload.py [--step-s 60] [--limit 28] [--slots 24] [--unlimited]

One simulated SGLang pair of which decode answers ``--slots`` requests at a time, behind a gateway
that takes on ``--limit``. First the most that can be had is measured in a closed loop; then an
open loop asks for 60 % of it, five times that, and 60 % again, while /health, /metrics and
/workers are asked all the time. ``--unlimited`` shows the same without a limit. Exit code 1 when
a target is missed: goodput in the step at least 90 % of the peak, refusals p99 below 50 ms,
probes p99 below 100 ms, latency as before within 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time

import cpu
import uvloop
from children import ENVIRONMENT, REPOSITORY, Bench, BenchFailed, answers, free_port
from open_loop import OpenLoop, Seen
from overload_report import Phase, best_window, phase_text, verdict
from report import machine

SHARE_BEFORE = 0.6
STEP = 5
PEAK_S = 10.0
PROBES = ("/health", "/metrics", "/workers")
PROBES_PER_S = 10.0
_BODY = (
    b'{"model":"stub","messages":[{"role":"user","content":"One two three"}],'
    b'"max_tokens":16,"ignore_eos":true}'
)


def main() -> int:
    """Runs the phases and prints what was seen."""
    parser = argparse.ArgumentParser(description="Steps a gateway up to five times its load.")
    parser.add_argument("--step-s", type=float, default=60.0, help="length of the step")
    parser.add_argument("--steady-s", type=float, default=15.0, help="before and after it")
    parser.add_argument("--slots", type=int, default=24, help="requests decode runs at a time")
    parser.add_argument("--limit", type=int, default=28, help="--max-concurrent-requests")
    parser.add_argument("--unlimited", action="store_true", help="no limit at the gateway")
    parser.add_argument("--slo-s", type=float, default=1.0, help="a later answer is no good one")
    asked = parser.parse_args()
    print(f"machine: {machine()}", flush=True)
    try:
        with Bench() as bench:
            return uvloop.run(_run(bench, asked))
    except BenchFailed as failure:
        print(f"overload: {failure}", file=sys.stderr)
        return 2


async def _run(bench: Bench, asked: argparse.Namespace) -> int:
    port, pid = _start(bench, asked.slots, 0 if asked.unlimited else asked.limit)
    with OpenLoop(port, _request("POST", "/v1/chat/completions", _BODY)).closing() as load:
        peak = (await load.closed(asked.slots, PEAK_S)).answers
        peak_per_s = best_window([a for a in peak if a.status == 200])
        rate = SHARE_BEFORE * peak_per_s
        print(f"peak: {peak_per_s:.0f} answers/s with {asked.slots} at a time", flush=True)
        phases = []
        for name, factor, seconds in (
            ("before", 1, asked.steady_s),
            ("step", STEP, asked.step_s),
            ("after", 1, asked.steady_s),
        ):
            before, waited_s = cpu.spent(pid), cpu.waited_s(pid)
            phases.append(await _phase(load, port, name, factor * rate, seconds))
            spent = cpu.spent(pid)
            cpu_s = spent.user_s + spent.kernel_s - before.user_s - before.kernel_s
            waited_s = cpu.waited_s(pid) - waited_s
            print(phase_text(phases[-1], asked.slo_s, cpu_s, waited_s), flush=True)
    memory = cpu.memory(pid)
    print(f"gateway memory: {memory.rss_bytes / 1e6:.0f} MB, peak {memory.peak_bytes / 1e6:.0f} MB")
    return verdict(phases, peak_per_s, asked.slo_s)


def _start(bench: Bench, n_slots: int, limit: int) -> tuple[int, int]:
    """The pair and the gateway; returns the gateway's port and pid."""
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("TANDEM_")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    sims = [sys.executable, "-m", "app.sim", "--pairs", "1", "--model", "stub"]
    sims += ["--max-running-requests", str(n_slots), "--decode-step-s", "0.02"]
    sims += ["--prefill-tokens-per-s", "1000000"]
    _, log = bench.spawn("sims", sims, cwd=bench.folder, env=environment)
    raise_if_late_s = time.monotonic() + 20
    while len(found := _workers(log.read_text())) < 2:
        if time.monotonic() > raise_if_late_s:
            raise BenchFailed(f"the simulated pair did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    port = free_port()
    command = [sys.executable, "-m", "app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--metrics-on-main", "--prometheus-port", "none"]
    command += ["--prefill", *found["prefill"], "--decode", found["decode"][0]]
    command += ["--max-concurrent-requests", str(limit), "--log-level", "info"]
    child, log = bench.spawn("tandem", command, cwd=bench.folder, env=environment)
    raise_if_late_s = time.monotonic() + 45
    while not answers(port):
        if child.poll() is not None or time.monotonic() > raise_if_late_s:
            raise BenchFailed(f"the gateway did not get ready: {log.read_text()[-3000:]}")
        time.sleep(0.1)
    return port, child.pid


def _workers(text: str) -> dict[str, list[str]]:
    found = re.findall(r"(prefill|decode) worker ready at (\S+)(?: bootstrap port (\d+))?", text)
    return {role: [url, port] if port else [url] for role, url, port in found}


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + body


async def _phase(load: OpenLoop, port: int, name: str, rate_per_s: float, seconds: float) -> Phase:
    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        loading = tasks.create_task(load.run(rate_per_s, seconds))
        probing = {path: tasks.create_task(_probe(port, path, seconds)) for path in PROBES}
    probes = {path: task.result() for path, task in probing.items()}
    return Phase(name, rate_per_s, seconds, begun_s, loading.result(), probes)


async def _probe(port: int, path: str, seconds: float) -> Seen:
    with OpenLoop(port, _request("GET", path), seed=len(path)).closing() as load:
        return await load.run(PROBES_PER_S, seconds)


if __name__ == "__main__":
    sys.exit(main())
