"""The workers of one model, and what can happen to one of them while requests run."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.soak.gateway_process import GatewayProcess
from tests.soak.sim_process import SimProcess
from tests.soak.truth import Event, Truth

EngineName = Literal["sglang", "nixl", "mooncake"]
READY_S = 30.0
DRAIN_S = 60.0
_SPEED = (
    *("--prefill-tokens-per-s", "200000", "--transfer-s-per-token", "1e-6"),
    *("--decode-step-s", "0.004", "--disconnect-notice-s", "1", "--peer-death-s", "0.5"),
)
_LEASES = ("--lease-s", "30", "--mooncake-abort-s", "30")
"""Longer than any worker is stopped: one that sleeps through the lease of a handoff finds somebody
else's blocks when it wakes, and no gateway can know."""


@dataclass(slots=True)
class Member:
    """One worker and its place in the registry."""

    process: SimProcess
    worker_id: str = ""

    @property
    def role(self) -> str:
        """The worker's."""
        return self.process.role


class SoakFleet:
    """Two prefill and two decode workers of one model.

    Args:
        engine: What they are; also the model's name.
        model: The folder of the tokenizer.
        truth: Where what happens is noted.
        rng: Where chance comes from.

    Attributes:
        is_over: Nothing more shall happen.
        is_told: What happened is printed.
        stuck: What did not end in time.
    """

    def __init__(self, engine: EngineName, model: Path, truth: Truth, rng: random.Random) -> None:
        self.engine = engine
        self.members: list[Member] = []
        self.is_over = False
        self.is_told = False
        self.stuck: list[str] = []
        self._truth = truth
        self._rng = rng
        for role in ("prefill", "decode") * 2:
            leases = () if engine == "sglang" else _LEASES
            flags = (*_SPEED, *leases, "--model", engine)
            self.members.append(Member(SimProcess(role, engine, model, *flags)))

    async def start(self) -> None:
        """Starts the processes."""
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(asyncio.to_thread(member.process.start))

    def end(self) -> None:
        """Ends them."""
        for member in self.members:
            member.process.end()

    async def join(self, gateway: GatewayProcess) -> None:
        """Has the gateway know the workers that it does not know yet, and waits for them."""
        for member in self.members:
            listed = await asyncio.to_thread(gateway.workers)
            known = {worker["url"]: worker["id"] for worker in listed}
            found = known.get(member.process.url)
            if found is None:
                await self._add(gateway, member)
            else:
                member.worker_id = found
        await self.until_ready(gateway)

    async def until_ready(self, gateway: GatewayProcess) -> None:
        """Waits until all workers may be asked.

        Raises:
            TimeoutError: They do not come.
        """
        urls = {member.process.url for member in self.members}

        def are_ready() -> bool:
            listed = [worker for worker in gateway.workers() if worker["url"] in urls]
            return len(listed) == len(urls) and all(w["status"] == "ready" for w in listed)

        await _until(are_ready, READY_S)

    async def _add(self, gateway: GatewayProcess, member: Member) -> None:
        body: dict[str, Any] = {"url": member.process.url, "worker_type": member.role}
        if member.process.bootstrap_port is not None:
            body["bootstrap_port"] = member.process.bootstrap_port
        status, answer = await asyncio.to_thread(gateway.rest, "POST", "/workers", body)
        if status != 202:
            raise RuntimeError(f"POST /workers: {status} {answer}")
        member.worker_id = answer["worker_id"]

    # ---- what happens

    async def live(self, gateway: GatewayProcess) -> None:
        """One thing after the other happens to one worker after the other, until it is over."""
        happenings = (self.kill, self.stop, self.drain, self.sicken)
        while not self.is_over:
            await asyncio.sleep(self._rng.uniform(1.0, 4.0))
            happening, member = self._rng.choice(happenings), self._rng.choice(self.members)
            began_s = time.monotonic()
            await happening(gateway, member)
            if self.is_told:
                what, took_s = happening.__name__, time.monotonic() - began_s
                told = f"{what} {self.engine} {member.role}"
                print(f"{told}: from {began_s:.2f}, {took_s:.1f} s", flush=True)

    async def kill(self, gateway: GatewayProcess, member: Member) -> None:
        """Kill -9, and a new process on the same ports a little later."""
        began_s = time.monotonic()
        await self.note_faults(member)
        await asyncio.to_thread(member.process.kill)
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await asyncio.to_thread(member.process.start)
        await self.until_ready(gateway)
        self._note(member, "killed", began_s)

    async def stop(self, gateway: GatewayProcess, member: Member) -> None:
        """SIGSTOP, and SIGCONT: mostly before anybody's patience ends."""
        began_s = time.monotonic()
        member.process.signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.choice((0.3, 1.0, 2.5, 10.0)))
        member.process.signal(signal.SIGCONT)
        await self.until_ready(gateway)
        self._note(member, "stopped", began_s)

    async def drain(self, gateway: GatewayProcess, member: Member) -> None:
        """DELETE under load: nobody notices. Then the process ends, and another one is added."""
        path = f"/workers/{member.worker_id}"
        status, answer = await asyncio.to_thread(gateway.rest, "DELETE", path)
        if status != 202:
            raise RuntimeError(f"DELETE {path}: {status} {answer}")
        try:
            await _until(lambda: gateway.rest("GET", path)[0] == 404, DRAIN_S)
        except TimeoutError:
            shown = (await asyncio.to_thread(gateway.rest, "GET", path))[1]
            held = await asyncio.to_thread(gateway.held)
            self.stuck.append(f"a drain took more than {DRAIN_S:g} s: {shown} {held}")
            await asyncio.to_thread(gateway.rest, "DELETE", f"{path}?force=true")
            await _until(lambda: gateway.rest("GET", path)[0] == 404, DRAIN_S)
        await self.note_faults(member)
        await asyncio.to_thread(member.process.end)
        await asyncio.to_thread(member.process.start)
        await self._add(gateway, member)
        await self.until_ready(gateway)
        self._truth.n_by_kind["drained"] += 1

    async def sicken(self, gateway: GatewayProcess, member: Member) -> None:
        """The worker's probes fail while it goes on serving."""
        began_s = time.monotonic()
        ask = member.process.ask
        await asyncio.to_thread(ask, "/sim/fault", {"kind": "health_down"})
        await asyncio.sleep(self._rng.uniform(1.0, 5.0))
        await asyncio.to_thread(ask, "/sim/fault", {"kind": "health_down", "on": False})
        await self.until_ready(gateway)
        self._note(member, "sick probes", began_s)

    async def note_faults(self, member: Member) -> None:
        """Takes over what a worker says of the faults that requests ran into."""
        try:
            taken = await asyncio.to_thread(member.process.ask, "/sim/faults")
        except OSError:
            # It is dead or stopped: that is noted by whoever did it.
            return
        for kind, at_s, key in taken:
            # A cut vLLM worker resets every connection, whosoever it is.
            is_shared = self.engine != "sglang" and kind == "cut"
            named = f"{member.role} {kind}"
            event = Event(self.engine, member.role, named, at_s, at_s, "" if is_shared else key)
            self._truth.note(event)

    def _note(self, member: Member, kind: str, began_s: float) -> None:
        event = Event(self.engine, member.role, kind, began_s, time.monotonic())
        self._truth.note(event)


async def _until(is_so: Callable[[], bool], limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.1)
