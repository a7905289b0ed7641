"""The simulated workers of one run, and the router in front of them."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from children import ENVIRONMENT, REPOSITORY, Bench, BenchFailed, free_port
from routing_cases import Case

from app.twin.trace import BLOCK_TOKENS

SHRINK = 4
"""Tokens that one simulated token stands for: a smaller fleet of the same behaviour."""
PREFILL_KV_TOKENS = 2_048_000
DECODE_KV_TOKENS = 4_000_000
DECODE_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Router:
    """One contestant: a name, the program, and its flags."""

    name: str
    flags: tuple[str, ...]
    is_smg: bool = False


ROUTERS = (
    Router("queue", ("--prefill-queue", "on")),
    Router("queue, 4 pipes", ("--prefill-queue", "on", "--workers", "4")),
    Router("cache_aware", ("--policy", "cache_aware")),
    Router("least_load", ("--policy", "least_load")),
    Router("smg cache_aware", ("--policy", "cache_aware"), is_smg=True),
    Router("smg power_of_two", ("--policy", "power_of_two"), is_smg=True),
)


class Fleet:
    """The workers: pairs in one process, the first prefill worker in one of its own if need be.

    Args:
        bench: Owns the processes.
        case: What they are like.
        speed: Of their clock.
        tokens_per_s: Of a prefill worker.
        decode_kv_tokens: KV cache of a decode worker; ``None``: more than is needed.
    """

    def __init__(
        self,
        bench: Bench,
        case: Case,
        speed: float,
        tokens_per_s: float,
        decode_kv_tokens: int | None,
    ) -> None:
        n = case.n_pairs
        first = _free_ports(3 * n)
        self.prefills = [first + 2 * i for i in range(n)]
        self.decodes = [port + 1 for port in self.prefills]
        self.bootstraps = [first + 2 * n + i for i in range(n)]
        self._bench = bench
        self._speed = speed
        self._common = ["--chunk-tokens", str(8192 // SHRINK)]
        self._common += ["--lead-s", str(case.lead_s), "--time-scale", str(1 / speed)]
        self._common += ["--transfer-s-per-token", str(case.transfer_s_per_token * SHRINK)]
        self._common += ["--decode-step-s", str(DECODE_STEP_S * SHRINK)]
        self._common += ["--page-size", str(BLOCK_TOKENS // SHRINK)]
        self._common += ["--schedule-policy", case.order]
        self._common += ["--max-total-tokens", str(PREFILL_KV_TOKENS // SHRINK)]
        decode = ["--max-total-tokens", str((decode_kv_tokens or DECODE_KV_TOKENS) // SHRINK)]
        n_alone = int(case.first_share != 1 or case.dies_at is not None)
        rate = tokens_per_s / SHRINK
        for i in range(n_alone):
            own = ["--port", str(self.prefills[i]), "--bootstrap-port", str(self.bootstraps[i])]
            own += ["--prefill-tokens-per-s", str(rate * case.first_share)]
            self.first = self._start("prefill", 1, ["--role", "prefill", *own])
            port = ["--port", str(self.decodes[i])]
            self._start("decode", 1, ["--role", "decode", *port, *decode])
        pairs = ["--pairs", str(n - n_alone), "--port", str(self.prefills[n_alone])]
        pairs += ["--bootstrap-port", str(self.bootstraps[n_alone])]
        pairs += ["--prefill-tokens-per-s", str(rate), "--decode-total-tokens", decode[1]]
        self._start("pairs", 2 * (n - n_alone), pairs)

    def _start(self, name: str, n_workers: int, flags: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.sim", *self._common, *flags]
        environment = ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
        folder = self._bench.folder
        child, log = self._bench.spawn(
            name, command, stdout=subprocess.PIPE, env=environment, cwd=folder
        )
        assert child.stdout is not None
        for _ in range(n_workers):
            if not child.stdout.readline():
                raise BenchFailed(f"the fleet did not start: {log.read_text()[-2000:]}")
        return child

    def flags(self) -> list[str]:
        """The flags that name the workers."""
        flags: list[str] = []
        for port, bootstrap in zip(self.prefills, self.bootstraps, strict=True):
            flags += ["--prefill", f"http://127.0.0.1:{port}", str(bootstrap)]
        for port in self.decodes:
            flags += ["--decode", f"http://127.0.0.1:{port}"]
        return flags

    def work(self) -> list[tuple[float, int]]:
        """Busy seconds (of the fleet) and computed tokens of each prefill worker that lives."""
        found = []
        for port in self.prefills:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/loads", timeout=30) as answer,
            ):
                row = json.load(answer)["loads"][0]
                busy_s = row["total_prefill_busy_us"] / 1e6 * self._speed
                found.append((busy_s, row["total_prefill_uncached_tokens"] * SHRINK))
        return found


def start_router(bench: Bench, router: Router, fleet: Fleet, speed: float) -> tuple[int, int]:
    """Starts a router and waits until it is ready; returns its port and its process."""
    port = free_port()
    module = ["-m", "smg", "launch"] if router.is_smg else ["-m", "app"]
    python = ENVIRONMENT["SMG"] if router.is_smg else sys.executable
    command = [python, *module, "--pd-disaggregation", *fleet.flags(), *router.flags]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    command += ["--prometheus-port", str(free_port())]
    if not router.is_smg:
        # What is a time of the fleet has to run as fast as its clock.
        command += ["--hold-decode-ms", str(10 / speed), "--prefill-poll-ms", str(100 / speed)]
    if router.is_smg:
        # Its default is ten seconds, and it takes whole ones.
        command += ["--load-monitor-interval", str(max(1, round(10 / speed)))]
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("TANDEM_")}
    if not router.is_smg:
        environment["PYTHONPATH"] = str(REPOSITORY)
    child, log = bench.spawn(router.name, command, cwd=bench.folder, env=environment)
    deadline_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=2):
                return port, child.pid
        except OSError:
            if time.monotonic() > deadline_s:
                raise BenchFailed(f"{router.name}: {log.read_text()[-2000:]}") from None
            time.sleep(0.2)


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
