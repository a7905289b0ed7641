"""Mooncake between simulated vLLM workers: decode asks, and prefill sends when it has the blocks.

Source: the Mooncake connector of vLLM 0.32. An ask waits at the prefill worker, in one of few
tasks, until the blocks are there; nothing but time ends one whose blocks never come, whatever
becomes of the requests on either side.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from app.sim.vllm_config import VllmConfig
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_job import LoadFailure, VllmJob
from app.sim.vllm_peer import ask_peer, query_bootstrap
from app.sim.vllm_pins import Pins

NEEDS = ("remote_engine_id", "remote_bootstrap_addr", "transfer_id")
"""Without one of these the engine warns and computes the prompt itself."""


class MooncakeSender:
    """Prefill's side.

    Args:
        config: The worker.
        counters: Where it counts.
        pins: The blocks of finished prefills, by transfer id.

    Attributes:
        n_waiting: Asks that wait for blocks, each in a task that can do nothing else meanwhile.
    """

    def __init__(self, config: VllmConfig, counters: VllmCounters, pins: Pins) -> None:
        self.n_waiting = 0
        self._config = config
        self._counters = counters
        self._pins = pins
        self._tasks = asyncio.Semaphore(config.mooncake_sender_tasks)
        self._ready: dict[str, asyncio.Event] = {}

    def ready(self, transfer_id: str) -> None:
        """A prefill has ended, and its blocks are pinned."""
        self._ready.setdefault(transfer_id, asyncio.Event()).set()

    def forget(self, transfer_id: str) -> None:
        """A prefill ended without blocks: asks that wait for it are not told."""
        self._ready.pop(transfer_id, None)

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        self._ready.clear()

    async def send(self, transfer_id: str, n_blocks: int, transfer_s: float) -> dict[str, Any]:
        """Answer an ask, which frees the blocks.

        Args:
            transfer_id: What both legs were told.
            n_blocks: How many blocks decode lacks; with none of them it only lets go.
            transfer_s: How long they take on the wire.

        Returns:
            What the blocks hold; nothing if they did not come in time or are too few.
        """
        async with self._tasks:
            if not await self._has_come(transfer_id):
                self._counters.n_asks_in_vain += 1
                return {}
            pin = self._pins.by_key[transfer_id]
            if n_blocks > pin.n_blocks:
                return {}
            if n_blocks:
                await asyncio.sleep(transfer_s)
            self._ready.pop(transfer_id, None)
            self._pins.release([transfer_id])
            return {"mark": pin.mark}

    async def _has_come(self, transfer_id: str) -> bool:
        event = self._ready.get(transfer_id)
        if event is None or (event.is_set() and transfer_id not in self._pins.by_key):
            # Not there yet, or there no more: the engine cannot tell which.
            event = self._ready[transfer_id] = asyncio.Event()
        self.n_waiting += 1
        try:
            async with asyncio.timeout(self._config.mooncake_abort_s):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            self.n_waiting -= 1
        return transfer_id in self._pins.by_key


class MooncakeReceiver:
    """Decode's side.

    Args:
        config: The worker.
    """

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self._places: dict[str, tuple[str, int]] = {}
        self._let_go: set[str] = set()

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        self._places.clear()

    async def let_go(self, job: VllmJob) -> None:
        """Have prefill free a job's blocks: an ask for none of them. Raises as ``fetch`` does.

        The engine and the servicer may both want it of a cancelled request; what comes up in one
        step is one message.
        """
        transfer_id = job.kv["transfer_id"]
        if transfer_id in self._let_go:
            return
        self._let_go.add(transfer_id)
        try:
            await self.fetch(job, 0, 0.0)
        finally:
            self._let_go.discard(transfer_id)

    async def fetch(self, job: VllmJob, n_tokens: int, transfer_s: float) -> dict[str, Any]:
        """Ask prefill for a job's blocks.

        Returns:
            What prefill answered.

        Raises:
            LoadFailure: Nobody knows the engine that was named.
            OSError: Nobody answers at the bootstrap address, or prefill is gone.
        """
        place = await self._place(job)
        order = {
            "op": "pull",
            "keys": [job.kv["transfer_id"]],
            "n_blocks": -(-n_tokens // self._config.block_size),
            "transfer_s": transfer_s,
        }
        loop = asyncio.get_running_loop()
        gives_up_s = loop.time() + self._config.mooncake_receive_s
        try:
            return await ask_peer(*place, order)
        except OSError:
            # ZeroMQ does not say that the other side is gone: the engine waits its time out.
            await asyncio.sleep(max(0.0, gives_up_s - loop.time()))
            raise

    async def _place(self, job: VllmJob) -> tuple[str, int]:
        engine_id = job.kv["remote_engine_id"]
        if engine_id not in self._places:
            bootstrap = urlsplit(job.kv["remote_bootstrap_addr"])
            entries = await query_bootstrap(bootstrap.hostname or "", bootstrap.port or 0)
            for entry in entries.values():
                worker = urlsplit(entry["worker_addr"]["0"]["0"])
                self._places[entry["engine_id"]] = (worker.hostname or "", worker.port or 0)
        if engine_id not in self._places:
            raise LoadFailure(f"unknown engine id {engine_id!r}")
        return self._places[engine_id]
