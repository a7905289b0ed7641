"""``make soak``: a gateway under a mixed load while its workers fail, die, stop, leave and join.

Ends with a table; the exit code is 0 only if no request was lost, no error lacked a cause or named
the wrong leg, no answer was another prompt's, nothing is left anywhere and memory is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from app.sim import chat_mark
from app.sim.small_tokenizer import write_small_tokenizer
from tests.soak.asked import Asking, vllm_chat_mark
from tests.soak.client import LIMIT_S, Client
from tests.soak.fleet import EngineName, SoakFleet
from tests.soak.gateway_process import GatewayProcess
from tests.soak.orders import sglang_order, vllm_order
from tests.soak.tally import Tally
from tests.soak.truth import Truth

ENGINES: tuple[EngineName, ...] = ("sglang", "nixl", "mooncake")
PROGRESS_S = 5.0
SETTLE_S = 75.0
"""Longest wait at the end until nothing is held: a Mooncake prefill may go on for a minute."""
AT_REST = ("tasks", "worker_connections")
"""What a gateway holds that has no request, too: loops, and the connections of its probes."""
WARM_SHARE = 0.1
"""Of the time; memory is not looked at before."""


class Soak:
    """One run.

    Args:
        asked: What the command line says.
        folder: For the tokenizer and the gateway's log.
    """

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self._asked = asked
        self._folder = folder
        self._truth = Truth()
        self._tally = Tally()
        write_small_tokenizer(folder)
        self._fleets = [
            SoakFleet(engine, folder, self._truth, self._rng(f"life of {engine}"))
            for engine in asked.engines
        ]
        for fleet in self._fleets:
            fleet.is_told = asked.verbose
        self._gateway: GatewayProcess | None = None
        self._is_over = False

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self._asked.seed} {name}")

    async def run(self) -> int:
        """Runs; returns the exit code."""
        try:
            async with asyncio.TaskGroup() as group:
                for fleet in self._fleets:
                    group.create_task(fleet.start())
            return await self._with_workers()
        finally:
            if self._gateway is not None:
                self._gateway.end()
            for fleet in self._fleets:
                fleet.end()

    async def _with_workers(self) -> int:
        first = self._fleets[0]
        workers = [m.process for m in first.members] if first.engine == "sglang" else []
        log = self._folder / "gateway.log"
        more = [] if workers else ["--pd-disaggregation"]
        gateway = self._gateway = GatewayProcess(_free_port(), log, workers, more)
        await asyncio.to_thread(gateway.wait_until_up, "/readiness" if workers else "/workers")
        for fleet in self._fleets:
            await fleet.join(gateway)
        await self._load(gateway, n_clients=2 * len(self._fleets), seconds=1.0, is_calm=True)
        await asyncio.sleep(4)
        idle, n_sockets = gateway.held(), gateway.n_sockets()
        await self._load(gateway, n_clients=self._asked.clients, seconds=self._asked.seconds)
        await self._settle(gateway, idle, n_sockets)
        self._tally.defects += gateway.exceptions()
        if not gateway.is_running:
            self._tally.defects.append("the gateway ended")
        lines, is_passed = self._tally.report(self._truth)
        print("\n".join(["", *lines, "passed" if is_passed else "FAILED"]), flush=True)
        return 0 if is_passed else 1

    # ---- under load

    async def _load(
        self, gateway: GatewayProcess, *, n_clients: int, seconds: float, is_calm: bool = False
    ) -> None:
        """Clients ask one request after the other, and meanwhile everything happens."""
        self._is_over = False
        for fleet in self._fleets:
            fleet.is_over = False
        async with asyncio.TaskGroup() as group:
            for number in range(n_clients):
                group.create_task(self._ask(gateway, number))
            if not is_calm:
                group.create_task(self._watch(gateway, seconds))
                for fleet in self._fleets:
                    group.create_task(fleet.live(gateway))
                    group.create_task(self._order(fleet))
            await asyncio.sleep(seconds)
            self._is_over = True
            # What is happening to a worker is seen through.
            for fleet in self._fleets:
                fleet.is_over = True

    async def _ask(self, gateway: GatewayProcess, number: int) -> None:
        fleet = self._fleets[number % len(self._fleets)]
        is_vllm = fleet.engine != "sglang"
        mark = vllm_chat_mark(self._folder) if is_vllm else chat_mark
        asking = Asking(fleet.engine, self._rng(f"client {number}"), mark, is_vllm=is_vllm)
        client = Client(gateway.port, LIMIT_S)
        while not self._is_over:
            self._tally.take(await client.ask(asking.next()))
        client.close()

    async def _order(self, fleet: SoakFleet) -> None:
        """Orders random faults of random workers."""
        rng = self._rng(f"faults of {fleet.engine}")
        make = sglang_order if fleet.engine == "sglang" else vllm_order
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(self._asked.faults))
            member, order = rng.choice(fleet.members), make(rng)
            try:
                await asyncio.to_thread(member.process.ask, "/sim/fault", order)
            except OSError:
                # Dead or stopped at the moment.
                continue
            await fleet.note_faults(member)

    async def _watch(self, gateway: GatewayProcess, seconds: float) -> None:
        """Samples memory every second and tells how it goes."""
        began_s = told_s = time.monotonic()
        while not self._is_over:
            await asyncio.sleep(1)
            now_s = time.monotonic()
            if now_s - began_s > seconds * WARM_SHARE:
                self._tally.rss_bytes.append(gateway.rss_bytes())
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                happened = f"{self._truth.n_by_kind.total()} faults"
                print(f"{now_s - began_s:.0f} s: {self._tally.line()}; {happened}", flush=True)

    # ---- afterwards

    async def _settle(self, gateway: GatewayProcess, idle: dict[str, int], n_sockets: int) -> None:
        """Waits until nothing of any request is held anywhere; what stays is a leak."""
        for fleet in self._fleets:
            for member in fleet.members:
                await fleet.note_faults(member)
                await asyncio.to_thread(member.process.ask, "/sim/fault", {"kind": "clear"})
        until_s = time.monotonic() + SETTLE_S
        left = await self._left(gateway, idle, n_sockets)
        while left and time.monotonic() < until_s:
            await asyncio.sleep(1)
            left = await self._left(gateway, idle, n_sockets)
        self._tally.leaks += left
        for fleet in self._fleets:
            self._tally.leaks += fleet.stuck

    async def _left(
        self, gateway: GatewayProcess, idle: dict[str, int], n_sockets: int
    ) -> list[str]:
        left = []
        for name, n in (await asyncio.to_thread(gateway.held)).items():
            n_before = idle[name] if name in AT_REST else 0
            if n > n_before:
                left.append(f"gateway: {name} {n}, before {n_before}")
        n_now = gateway.n_sockets()
        if n_now > n_sockets:
            left.append(f"gateway: {n_now} sockets, before {n_sockets}")
        for worker in await asyncio.to_thread(gateway.workers):
            left += [f"gateway: load {n} on {worker['url']}" for n in [worker["load"]] if n]
        for fleet in self._fleets:
            for member in fleet.members:
                held = await asyncio.to_thread(member.process.ask, "/sim/held")
                left += [f"{fleet.engine} {member.role}: {k} {n}" for k, n in held.items() if n]
        return left


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def seconds_of(text: str) -> float:
    """Reads 90, 90s, 5m or 2h.

    Raises:
        ValueError: It is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ValueError(f"{text!r} is no time; write 90s, 5m or 2h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", dest="seconds", type=seconds_of, default="5m", help="default 5m")
    parser.add_argument("--seed", default=None, help="makes the same requests and faults again")
    parser.add_argument("--clients", type=int, default=24, help="requests at a time")
    parser.add_argument("--faults", type=float, default=1.0, help="faults a second of each fleet")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--verbose", action="store_true", help="tell what happens to workers")
    asked = parser.parse_args(argv)
    asked.seed = asked.seed or str(random.SystemRandom().randrange(10**6))
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the soak; 0 if it was passed."""
    asked = _arguments(argv)
    print(f"soak of {asked.seconds:g} s, SEED={asked.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="tandem-soak-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(Soak(asked, Path(folder)).run())


if __name__ == "__main__":
    sys.exit(main())
