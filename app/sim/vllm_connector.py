"""The KV connectors of a simulated vLLM worker, both ends."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from typing import Any

from app.clock import Clock
from app.sim.vllm_config import MOONCAKE, VllmConfig
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_job import EngineCrash, LoadFailure, VllmJob
from app.sim.vllm_mooncake import NEEDS as MOONCAKE_NEEDS
from app.sim.vllm_mooncake import MooncakeReceiver, MooncakeSender
from app.sim.vllm_peer import ask_peer
from app.sim.vllm_pins import Pins

_NIXL_NEEDS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "tp_size")
_KEEPING = {True: ("length", "stop"), False: ("length",)}
"""How a prefill must end so that its blocks are kept: NIXL, Mooncake (vLLM 0.32)."""


class Connector:
    """What the engine asks of its KV connector.

    Args:
        config: The worker.
        counters: Where it counts.
        pins: The blocks kept for others.
        now_s: Clock in seconds.
    """

    def __init__(
        self, config: VllmConfig, counters: VllmCounters, pins: Pins, now_s: Clock
    ) -> None:
        self.pins = pins
        self.engine_id = ""
        self.address = ("", 0)
        """Where other workers reach this one."""
        self.sender = MooncakeSender(config, counters, pins)
        self._receiver = MooncakeReceiver(config)
        self._config = config
        self._counters = counters
        self._now_s = now_s
        self._beating: set[VllmJob] = set()
        self._n_blocks = 0

    # ---- asserted when a request comes

    def check(self, job: VllmJob) -> None:
        """Assert what vLLM 0.32 asserts.

        Raises:
            EngineCrash: A producer shall load, a consumer shall keep, or NIXL is told to load
                without being told which blocks.
        """
        role = self._config.own_kv_role
        if role == "kv_producer" and job.wants_kv:
            raise EngineCrash("kv_producer got do_remote_prefill")
        if role == "kv_consumer" and job.keeps_kv:
            raise EngineCrash("kv_consumer got do_remote_decode")
        if self._config.is_nixl and job.wants_kv and not job.kv.get("remote_block_ids"):
            raise EngineCrash("do_remote_prefill without remote_block_ids")

    def loads(self, job: VllmJob) -> bool:
        """The job's KV comes from elsewhere. Mooncake drops an incomplete order with a warning."""
        if not self._config.connector or not job.wants_kv:
            return False
        return self._config.connector != MOONCAKE or all(job.kv.get(k) for k in MOONCAKE_NEEDS)

    # ---- prefill: keep blocks, answer decode workers

    def keep(self, job: VllmJob) -> bool:
        """Pin a finished job's blocks if they are wanted; sets what its answer tells decode."""
        is_nixl = self._config.is_nixl
        if not self._config.connector or not job.keeps_kv:
            return False
        transfer_id = str(job.kv.get("transfer_id", job.internal_id))
        if job.finish_reason not in _KEEPING[is_nixl]:
            self.sender.forget(transfer_id)
            return False
        if not is_nixl:
            self.pins.pin(transfer_id, job)
            self.sender.ready(transfer_id)
            return True
        pin = self.pins.pin(job.internal_id, job)
        job.handoff_json = json.dumps(self._handoff(job, pin.n_blocks))
        return True

    def _handoff(self, job: VllmJob, n_blocks: int) -> dict[str, Any]:
        first, self._n_blocks = self._n_blocks, self._n_blocks + n_blocks
        is_push = self._config.connector == "NixlPushConnector"
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(first + 1, first + n_blocks + 1))],
            "remote_engine_id": self._rank_id(job.rank),
            "remote_request_id": job.internal_id,
            "remote_host": self.address[0],
            "remote_port": self.address[1],
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": job.n_prompt,
            **({} if is_push else {"remote_blocks_expiry_time": None}),
            "transfer_mode": "push" if is_push else "pull",
            "remote_prefill_cached_tokens": job.n_cached,
        }

    def query(self) -> dict[str, Any]:
        """What Mooncake's bootstrap server says."""
        host, port = self.address
        return {
            str(rank): {
                "engine_id": self._rank_id(rank),
                "worker_addr": {"0": {"0": f"tcp://{host}:{port}"}},
            }
            for rank in range(self._config.dp_size)
        }

    async def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what a decode worker asks for."""
        keys: list[str] = order["keys"]
        match order["op"]:
            case "heartbeat":
                self.pins.extend(keys)
            case "release":
                self.pins.release(keys)
            case "pull":
                return await self.sender.send(keys[0], order["n_blocks"], order["transfer_s"])
            case "read":
                ids = {self._rank_id(rank) for rank in range(self._config.dp_size)}
                return self.pins.read(keys[0]) if order["engine_id"] in ids else {}
        return {"ok": True}

    def _rank_id(self, rank: int) -> str:
        return self.engine_id if self._config.dp_size == 1 else f"{self.engine_id}_dp{rank}"

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        self.pins.clear()
        self.sender.clear()
        self._receiver.clear()
        self._beating.clear()

    # ---- decode: load, beat, release

    def queued(self, job: VllmJob) -> None:
        """The scheduler has the job: its heartbeats begin."""
        if self._config.is_nixl and all(job.kv.get(key) for key in _NIXL_NEEDS):
            self._beating.add(job)

    def forget(self, job: VllmJob) -> None:
        """No more heartbeats for a job."""
        self._beating.discard(job)

    async def beat(self) -> None:
        """Ask for longer leases, for ever."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            keys: dict[tuple[str, int], list[str]] = defaultdict(list)
            for job in self._beating if self._config.has_heartbeats else ():
                place = (job.kv["remote_host"], job.kv["remote_port"])
                keys[place].append(job.kv["remote_request_id"])
            for (host, port), some in keys.items():
                try:
                    await ask_peer(host, port, {"op": "heartbeat", "keys": some})
                except OSError:
                    continue

    async def load(self, job: VllmJob, n_local: int) -> None:
        """Fetch a job's KV; sets its mark and what it reports as cached.

        Raises:
            LoadFailure: Wrong engine, nobody there, or nothing came in time.
        """
        n_wanted = job.n_prompt - n_local
        transfer_s = self._config.scaled(n_wanted * self._config.transfer_s_per_token)
        try:
            if self._config.is_nixl:
                found = await self._read(job)
            else:
                found = await self._receiver.fetch(job, n_wanted, transfer_s)
        except OSError as error:
            raise LoadFailure(str(error)) from error
        if "mark" not in found:
            raise LoadFailure("the other worker has not what was named")
        if self._config.is_nixl:
            await asyncio.sleep(transfer_s)
        job.mark = found["mark"]
        job.n_cached = int(job.kv.get("remote_prefill_cached_tokens", job.n_prompt))
        self._counters.n_transfers += 1
        self._counters.n_transferred_tokens += n_wanted
        if self._config.is_nixl:
            await self.release(job)
        else:
            # Sending has freed them.
            job.is_released = True

    async def _read(self, job: VllmJob) -> dict[str, Any]:
        kv = job.kv
        if not all(kv.get(key) for key in _NIXL_NEEDS if key != "tp_size"):
            # One warning, then the request waits for KV that nobody was asked for.
            await asyncio.Event().wait()
        order = {
            "op": "read",
            "engine_id": kv["remote_engine_id"],
            "keys": [kv["remote_request_id"]],
        }
        return await ask_peer(kv["remote_host"], kv["remote_port"], order)

    async def release(self, job: VllmJob) -> None:
        """Tell prefill that a job's blocks are not needed any more."""
        if job.is_released or job.is_dead:
            return
        job.is_released = True
        try:
            if self._config.is_nixl:
                kv = job.kv
                order = {"op": "release", "keys": [kv["remote_request_id"]]}
                await ask_peer(kv["remote_host"], kv["remote_port"], order)
            else:
                await self._receiver.let_go(job)
        except (OSError, KeyError, LoadFailure):
            # Prefill is gone or was never named: its blocks wait for the end of their lease.
            return


def internal_id(external_id: str) -> str:
    """The engine's own name of a request: the caller's and eight hex digits."""
    return f"{external_id}-{secrets.token_hex(4)}"
