"""A simulated vLLM worker that can be started, killed and restarted inside a test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import grpc
import grpc.aio

from app.clock import Clock
from app.sim.config import Role
from app.sim.vllm_admin import Readiness
from app.sim.vllm_config import MOONCAKE, NIXL, ServerTls, VllmConfig
from app.sim.vllm_counters import VllmCounters, VllmSeen
from app.sim.vllm_engine import VllmEngine
from app.sim.vllm_faults import VllmFaultBook
from app.sim.vllm_peer import PeerListener
from app.sim.vllm_relay import Relay
from app.sim.vllm_servicer import Garbler, VllmServicer
from app.sim.vllm_tokens import ByteTokenizer, SimTokenizer, prompt_mark
from app.upstream.generated.health_pb2_grpc import add_HealthServicer_to_server
from app.upstream.generated.vllm_engine_pb2_grpc import add_VllmEngineServicer_to_server

OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)
"""Those of vLLM's launcher."""
QUICK: Mapping[str, Any] = {
    "lease_s": 0.6,
    "mooncake_abort_s": 1.0,
    "mooncake_grace_s": 0.2,
}
"""What ``vllm_pair`` changes so that tests of failures are short."""
CONNECTORS: Mapping[str, str] = {"nixl": NIXL[0], "mooncake": MOONCAKE, "none": ""}


class VllmSim:
    """One worker on loopback, served in the running loop.

    Use as an async context manager. Counters survive ``kill`` and ``restart``; requests, the
    prefix cache and kept blocks do not, and the engine id changes unless it was pinned.

    Args:
        config: The worker.
        tokenizer: Makes its output; bytes if left out.
        now_s: Clock in seconds.

    Attributes:
        script: What to say instead of the usual answer; ``{mark}`` in it is the mark.
    """

    def __init__(
        self,
        config: VllmConfig | None = None,
        tokenizer: SimTokenizer | None = None,
        *,
        now_s: Clock = time.monotonic,
    ) -> None:
        self.config = config or VllmConfig()
        self.tokenizer = tokenizer or ByteTokenizer()
        self.counters = VllmCounters()
        self.faults = VllmFaultBook()
        self.script: str | None = None
        self.port = self.config.port
        self.is_up = False
        self.engine = VllmEngine(
            self.config, self.counters, self.tokenizer, lambda: self.script, now_s
        )
        connector = self.engine.connector
        self._side = PeerListener(connector.answer, connector.query)
        self._bootstrap = PeerListener(connector.answer, connector.query)
        self._bootstrap_port = self.config.bootstrap_port
        self._relay = Relay()
        self._inner_port = 0
        self._server: grpc.aio.Server | None = None
        self._group = asyncio.TaskGroup()
        self._engine_task: asyncio.Task[None] | None = None

    # ---- life

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        try:
            self._engine_task = self._group.create_task(self.engine.run(self._group))
            await asyncio.sleep(0)
            await self._serve()
            await self.restart()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        if self._server is not None:
            await self._server.stop(None)
        if self._engine_task is not None:
            self._engine_task.cancel()
        await self._group.__aexit__(None, None, None)

    async def kill(self) -> None:
        """Like kill -9: no listener, every connection reset, every request forgotten."""
        self._end()
        # The gRPC server hears of it from its sockets.
        for _ in range(400):
            n_open = sum(part.n_open for part in (self._relay, self._side, self._bootstrap))
            if not self.counters.n_active and not n_open:
                return
            await asyncio.sleep(0.005)
        raise RuntimeError("requests outlived the death of their worker")

    async def restart(self) -> None:
        """Listen again, on the same ports, as a new engine."""
        host = self.config.host
        await self._side.start(host, self._side.port)
        self.engine.connector.address = (host, self._side.port)
        if self.config.connector == MOONCAKE and self.config.role == "prefill":
            await self._bootstrap.start(host, self._bootstrap_port)
            self._bootstrap_port = self._bootstrap.port
        self.port = await self._relay.start(host, self.port, self._inner_port)
        self.is_up = True

    def cut(self) -> None:
        """Reset every connection of clients; the worker goes on."""
        self._relay.cut()

    def refuse_connections(self) -> None:
        """Close the listening socket; what is open goes on."""
        self._relay.refuse_connections()

    def _end(self) -> None:
        self.is_up = False
        self.engine.reset()
        self._relay.kill()
        self._side.kill()
        self._bootstrap.kill()

    def _crash(self, reason: str) -> None:
        self.counters.crashes.append(reason)
        self._end()

    async def _serve(self) -> None:
        self._server = grpc.aio.server(options=OPTIONS, interceptors=(Garbler(self.faults),))
        servicer = VllmServicer(
            self.config,
            self.engine,
            self.counters,
            self.faults,
            self.tokenizer,
            cut=self.cut,
            die=self._crash,
        )
        add_VllmEngineServicer_to_server(servicer, self._server)
        add_HealthServicer_to_server(Readiness(self.faults), self._server)
        place = "127.0.0.1:0"
        tls = self.config.tls
        if tls is None:
            self._inner_port = self._server.add_insecure_port(place)
        else:
            self._inner_port = self._server.add_secure_port(place, _credentials(tls))
        await self._server.start()

    # ---- what tests look at

    @property
    def url(self) -> str:
        """The worker's URL."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{'grpc' if self.config.tls is None else 'grpcs'}://{host}:{self.port}"

    @property
    def bootstrap_port(self) -> int | None:
        """Mooncake prefill: where decode asks who is there."""
        return self._bootstrap_port or None

    @property
    def engine_id(self) -> str:
        """The one of the engine that runs now."""
        return self.engine.connector.engine_id

    @property
    def seen(self) -> list[VllmSeen]:
        """The Generate calls, oldest first."""
        return list(self.counters.seen)

    @property
    def aborted(self) -> list[str]:
        """Ids of running requests that an Abort ended."""
        return self.counters.aborted

    @property
    def cancelled(self) -> list[str]:
        """Ids of calls that the client cancelled."""
        return self.counters.cancelled

    @property
    def computed_prompt_tokens(self) -> int:
        """Prompt tokens that steps computed; 1 for each request whose KV was loaded."""
        return self.counters.computed_prompt_tokens

    @property
    def generated_tokens(self) -> int:
        """Output tokens."""
        return self.counters.generated_tokens

    @property
    def n_pinned_blocks(self) -> int:
        """Blocks kept for decode workers; 0 when nothing leaks."""
        return self.engine.pins.n_blocks

    @property
    def n_held_tokens(self) -> int:
        """Tokens of KV cache that requests hold, also those that are over; pinned ones apart."""
        return sum(rank.n_held for rank in self.engine.ranks)

    @property
    def n_orphaned_tokens(self) -> int:
        """Those of requests that are over: decode expects blocks for them."""
        return sum(rank.n_orphaned for rank in self.engine.ranks)

    @property
    def n_waiting_asks(self) -> int:
        """Mooncake prefill: decode's asks for blocks that are not there."""
        return self.engine.connector.sender.n_waiting

    @property
    def n_active(self) -> int:
        """Generate calls that are open now."""
        return self.counters.n_active

    def held(self) -> dict[str, int]:
        """What requests occupy here; all zero when nothing leaks."""
        return {
            "requests": self.n_active,
            "jobs": len(self.engine.jobs),
            "pinned blocks": self.n_pinned_blocks,
            "tokens": self.n_held_tokens,
            "loads": sum(len(rank.receiving) for rank in self.engine.ranks),
            "asks": self.n_waiting_asks,
        }

    def counted(self) -> dict[str, int]:
        """What it counted."""
        return self.counters.as_json()

    def mark(self, prompt_ids: list[int]) -> str:
        """What the answer to this prompt must carry."""
        return prompt_mark(self.tokenizer, prompt_ids)


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


@asynccontextmanager
async def vllm_pair(
    connector: str = "nixl",
    prefill: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
    *,
    tokenizer: SimTokenizer | None = None,
    **both: Any,
) -> AsyncIterator[tuple[VllmSim, VllmSim]]:
    """A prefill and a decode worker with short leases.

    Args:
        connector: ``nixl``, ``mooncake``, ``none`` or a connector's class name.
        prefill: Settings of the prefill worker only.
        decode: Settings of the decode worker only.
        tokenizer: Of both.
        **both: Settings of both (fields of ``VllmConfig``).
    """

    def config(role: Role, own: Mapping[str, Any] | None) -> VllmConfig:
        name = CONNECTORS.get(connector, connector)
        made = VllmConfig(role=role, connector=name)
        return replace(made, **{**QUICK, **both, **(own or {})})

    async with (
        VllmSim(config("prefill", prefill), tokenizer) as prefill_sim,
        VllmSim(config("decode", decode), tokenizer) as decode_sim,
    ):
        yield prefill_sim, decode_sim
