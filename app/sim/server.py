"""A simulated SGLang worker that can be started, killed and restarted inside a test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from app.clock import Clock
from app.sim.config import Role, SimConfig
from app.sim.control import Control
from app.sim.counters import Counters, Seen
from app.sim.decode import DecodeEngine
from app.sim.faults import FaultBook
from app.sim.listener import Listener
from app.sim.prefill import PrefillEngine
from app.sim.rendezvous import Rendezvous
from app.sim.sglang_app import SglangApp

if TYPE_CHECKING:
    from app.sim.kv_zmq import KvPublisher

QUICK: Mapping[str, Any] = {
    "disconnect_notice_s": 0.2,
    "peer_death_s": 0.3,
    "handshake_timeout_s": 1.0,
}
"""What ``sim_pair`` changes so that tests of failures are short."""


class SglangSim:
    """One worker on 127.0.0.1, served in the running loop.

    Use as an async context manager. Counters survive ``kill`` and
    ``restart``; requests and the prefix cache do not.
    """

    def __init__(self, config: SimConfig | None = None, *, now_s: Clock = time.monotonic) -> None:
        self.config = config or SimConfig()
        self.counters = Counters()
        self.faults = FaultBook()
        self.port = self.config.port
        self._now_s = now_s
        self._bootstrap_port = self.config.bootstrap_port or 0
        self._rendezvous = Rendezvous(self._describe)
        self.engine: PrefillEngine | DecodeEngine
        if self.config.role == "prefill":
            self.engine = PrefillEngine(self.config, self.counters, self._rendezvous, now_s)
        else:
            self.engine = DecodeEngine(self.config, self.counters, now_s)
        app = SglangApp(
            self.config,
            self.engine,
            self.counters,
            self.faults,
            ports=lambda: (self.port, self.bootstrap_port),
            control=Control(self),
            now_s=now_s,
            kv_events=self.kv_events,
        )
        self.kv_publishers = self._publishers()
        self._listener = Listener(app, self.config.host, keep_alive_s=self.config.keep_alive_s)
        self._group = asyncio.TaskGroup()
        self._engine_task: asyncio.Task[None] | None = None

    # ---- life

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        try:
            self._engine_task = self._group.create_task(self.engine.run(self._group))
            await asyncio.sleep(0)
            await self.restart()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        if self._engine_task is not None:
            self._engine_task.cancel()
        await self._group.__aexit__(None, None, None)

    async def kill(self) -> None:
        """Like kill -9: no listener, every connection reset, every request forgotten."""
        self._listener.kill()
        for publisher in self.kv_publishers:
            publisher.stop()
        self._rendezvous.kill()
        self.engine.reset()
        await self._listener.settle()

    async def restart(self) -> None:
        """Listen again, on the same ports, with an empty cache."""
        if self.config.role == "prefill":
            await self._rendezvous.start(self.config.host, self._bootstrap_port)
            self._bootstrap_port = self._rendezvous.port
        for publisher in self.kv_publishers:
            publisher.start(self._group)
        self.port = await self._listener.start(self.port)

    def refuse_connections(self) -> None:
        """Close the listening socket; what is open goes on."""
        self._listener.refuse_connections()

    # ---- what tests look at

    @property
    def url(self) -> str:
        """The worker's base URL."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def bootstrap_port(self) -> int:
        """Prefill: where it meets decode. Others: their own setting, of no use."""
        if self.config.role == "prefill":
            return self._bootstrap_port
        return self.config.own_bootstrap_port

    @property
    def seen(self) -> list[Seen]:
        """The generation requests, oldest first."""
        return list(self.counters.seen)

    @property
    def aborted(self) -> list[str]:
        """Ids of requests that were aborted while in use here."""
        return self.counters.aborted

    @property
    def computed_prompt_tokens(self) -> int:
        """Prompt tokens that prefill steps computed."""
        return self.counters.computed_prompt_tokens

    @property
    def generated_tokens(self) -> int:
        """Output tokens."""
        return self.counters.generated_tokens

    @property
    def n_active(self) -> int:
        """Generation requests that are open now."""
        return self.counters.n_active

    @property
    def n_rooms(self) -> int:
        """Rooms with somebody in them; 0 when nothing leaks."""
        return len(self._rendezvous.rooms)

    def held(self) -> dict[str, int]:
        """What requests occupy here; all zero when nothing leaks."""
        return {
            "requests": self.n_active,
            "jobs": len(self.engine.table.jobs),
            "rooms": self.n_rooms,
            "tokens": self.engine.n_held,
        }

    def counted(self) -> dict[str, Any]:
        """What it counted, and the latest requests."""
        return self.counters.as_json()

    def kv_events(self) -> dict[str, Any] | None:
        """What ``/server_info`` says of them; None: it publishes none."""
        if not self.kv_publishers:
            return None
        first = self.kv_publishers[0]
        return {
            "publisher": "zmq",
            "endpoint_host": "*",
            "endpoint_port_base": first.port,
            "topic": "",
            "block_size": self.config.page_size,
            "dp_size": self.config.dp_size,
            "replay_endpoint_port_base": first.replay_port,
        }

    def _publishers(self) -> list[KvPublisher]:
        if not isinstance(self.engine, PrefillEngine) or not self.config.has_kv_events:
            return []
        # ZeroMQ is of an extra.
        from app.sim.kv_zmq import KvPublisher  # noqa: PLC0415

        logs = [rank.cache.log for rank in self.engine.ranks]
        return [
            KvPublisher(log, rank, self.config.host)
            for rank, log in enumerate(logs)
            if log is not None
        ]

    def _describe(self) -> dict[str, Any]:
        return {
            "attn_tp_size": 1,
            "attn_cp_size": 1,
            "dp_size": self.config.dp_size,
            "pp_size": 1,
            "page_size": self.config.page_size,
            "kv_cache_dtype": "auto",
            "follow_bootstrap_room": True,
            "prefill_http_port": self.port,
        }


@asynccontextmanager
async def sim_pair(
    prefill: Mapping[str, Any] | None = None, decode: Mapping[str, Any] | None = None, **both: Any
) -> AsyncIterator[tuple[SglangSim, SglangSim]]:
    """A prefill and a decode worker with short detection times.

    Args:
        prefill: Settings of the prefill worker only.
        decode: Settings of the decode worker only.
        **both: Settings of both (fields of ``SimConfig``).
    """

    def config(role: Role, own: Mapping[str, Any] | None) -> SimConfig:
        return replace(SimConfig(role=role), **{**QUICK, **both, **(own or {})})

    async with (
        SglangSim(config("prefill", prefill)) as prefill_sim,
        SglangSim(config("decode", decode)) as decode_sim,
    ):
        yield prefill_sim, decode_sim
