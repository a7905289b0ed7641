"""A whole gateway before simulated vLLM workers, all in the test's own loop.

As in ``fleet`` both sides are looked at. What a worker kept for another one (pinned blocks), room
that it holds for blocks of a request that is over, and Mooncake's asks for such blocks are
leftovers like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from app.gateway import Gateway
from app.main import create_app
from app.settings import PrefillUrl, Settings
from app.sim import Role, VllmConfig, VllmSim
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.listener import Listener
from app.sim.vllm_server import CONNECTORS
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_call import VllmCall
from app.workers.worker import Worker
from tests.flow.fleet import BOUND_S, Fleet

LONG_LEASE_S = 30.0
"""Nothing comes free by itself while a test runs."""
GRPC_CLIENT = "own"
"""What gateways speak to their workers by; tests of both change it."""
SHORT_LEASE_S = 0.6
"""For blocks that nobody can release: they come free within the bound of a test."""


@dataclass
class VllmFleet(Fleet):
    """A running gateway, its vLLM workers and a client."""

    @property
    def prefill(self) -> VllmSim:
        """The first prefill worker."""
        worker: VllmSim = self.prefills[0]
        return worker

    @property
    def decode(self) -> VllmSim:
        """The first decode worker."""
        worker: VllmSim = self.decodes[0]
        return worker

    @property
    def counts(self) -> dict[str, int]:
        """How KV caches changed hands so far."""
        return dict(self.gateway.handoffs.by_kind)

    @property
    def n_pinned_blocks(self) -> int:
        """Blocks that prefill workers keep."""
        return sum(worker.n_pinned_blocks for worker in self.prefills)

    def live(self, worker: Any) -> Worker:
        """The gateway's own view of a worker."""
        return super().live(worker)

    def leftovers(self) -> dict[str, Any]:
        """What is still held somewhere."""
        live = self.gateway.registry.workers()
        extra = asyncio.all_tasks() - self.tasks - {asyncio.current_task()}
        door = self.gateway.entrance.door
        held = {
            "in flight": door.n_in_flight,
            "body bytes": door.n_body_bytes,
            "leases": sum(w.n_leases + sum(w.rank_leases) for w in live),
            "ending legs": self.gateway.reaper.n_pending,
            "requests in workers": sum(w.n_active for w in self.workers),
            "jobs in engines": sum(len(w.engine.jobs) for w in self.workers),
            "pinned blocks": self.n_pinned_blocks,
            "held tokens": sum(w.n_held_tokens for w in self.workers),
            "asks for blocks": sum(w.n_waiting_asks for w in self.workers),
            "tasks": [str(task) for task in extra if not _is_of_a_worker(task)],
        }
        return {name: what for name, what in held.items() if what}


def _is_of_a_worker(task: asyncio.Task[Any]) -> bool:
    """Tasks of simulated workers and of their gRPC servers; they are looked at otherwise."""
    coro = task.get_coro()
    if not isinstance(coro, Coroutine):
        return True
    code = getattr(coro, "cr_code", None)
    return code is None or "/sim/" in code.co_filename or "/grpc/" in code.co_filename


def sim(role: Role, model: Path, connector: str = "nixl", **config: Any) -> VllmSim:
    """A worker that is not started yet; it says what the tokenizer of ``model`` can say."""
    made = VllmConfig(
        role=role, connector=CONNECTORS.get(connector, connector), lease_s=LONG_LEASE_S
    )
    return VllmSim(replace(made, **config), FolderTokenizer(model))


async def fleet_of(
    stack: AsyncExitStack,
    model: Path,
    connector: str = "nixl",
    *,
    n_prefills: int = 1,
    n_decodes: int = 1,
    prefill: dict[str, Any] | None = None,
    decode: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **both: Any,
) -> VllmFleet:
    """A gateway before started workers of one connector.

    Args:
        stack: Ends everything.
        model: Folder of the tokenizer, which the gateway is told, too.
        connector: See ``vllm_pair``.
        n_prefills: How many prefill workers.
        n_decodes: How many decode workers.
        prefill: Settings of the prefill workers.
        decode: Settings of the decode workers.
        settings: Settings of the gateway.
        **both: Settings of all workers.
    """
    prefills = [
        sim("prefill", model, connector, **both, **(prefill or {})) for _ in range(n_prefills)
    ]
    decodes = [sim("decode", model, connector, **both, **(decode or {})) for _ in range(n_decodes)]
    for worker in (*prefills, *decodes):
        await stack.enter_async_context(worker)
    asked = {"model_path": str(model)} | (settings or {})
    return await stack.enter_async_context(serving(prefills, decodes, **asked))


@asynccontextmanager
async def serving(
    prefills: Sequence[VllmSim],
    decodes: Sequence[VllmSim],
    *,
    is_ready: bool = True,
    regulars: Sequence[VllmSim] = (),
    **settings: Any,
) -> AsyncIterator[VllmFleet]:
    """Runs a gateway before workers, and afterwards looks for leftovers.

    Args:
        prefills: Started workers.
        decodes: The same.
        regulars: The same.
        is_ready: All of them will be; else the test waits for what it needs.
        **settings: Of the gateway; one failure opens a breaker unless they say otherwise.
    """
    app = create_app(
        Settings(
            **{
                "prefill": tuple(PrefillUrl(w.url, w.bootstrap_port) for w in prefills),
                "decode": tuple(w.url for w in decodes),
                "worker_urls": tuple(w.url for w in regulars),
                "policy": "round_robin",
                "health_check_interval_secs": 60.0,
                "cb_failure_threshold": 1,
                "log_level": "error",
                "grpc_client": GRPC_CLIENT,
                **settings,
            }
        )
    )
    gateway: Gateway = app.state.gateway
    listener = Listener(app, "127.0.0.1")
    async with app.router.lifespan_context(app):
        port = await listener.start(0)
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=2 * BOUND_S
            ) as http:
                fleet = VllmFleet(http, gateway, prefills, decodes, regulars)
                if is_ready:
                    await fleet.ready()
                yield fleet
                await fleet.settle()
        finally:
            listener.kill()
            await listener.settle()


def sent_by(call: VllmCall) -> pb.GenerateRequest:
    """What a call writes."""
    return pb.GenerateRequest.FromString(call._request)


def asked(worker: VllmSim, index: int = 0) -> pb.GenerateRequest:
    """What a worker was asked by one of its Generate calls."""
    return worker.seen[index].request


def record_handoffs(
    prefill: VllmSim, change: Callable[[str], str] = lambda text: text
) -> list[str]:
    """Lets a test see, and change, the texts that a prefill worker hands over."""
    connector = prefill.engine.connector
    keep, texts = connector.keep, []

    def keep_and_note(job: Any) -> bool:
        is_kept = keep(job)
        if job.handoff_json is not None:
            job.handoff_json = change(job.handoff_json)
            texts.append(job.handoff_json)
        return is_kept

    connector.keep = keep_and_note  # type: ignore[method-assign]
    return texts


class Reasons:
    """Keeps the reasons of warnings."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warning(self, text: str, *, worker: str, reason: str) -> None:
        """One more."""
        del text, worker
        self.warned.append(reason)
