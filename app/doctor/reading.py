"""Asks the workers, all at once and bounded; what could not be had is part of what is returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from app.dispatch.kv_transfer import MOONCAKE_NAME, MOONCAKE_PORT
from app.upstream.failures import UpstreamError
from app.upstream.get_json import JsonAnswer, get_json
from app.upstream.sglang_worker import CALL_FAILURES, WorkerRefused
from app.workers.probe_rules import ProbeResult
from app.workers.worker import Engine, Role, Worker, WorkerInfo, WorkerSpec

if TYPE_CHECKING:
    from app.upstream.clients import WorkerClients
    from app.upstream.keep_alive import KeepAlive
    from app.upstream.vllm_worker import VllmWorker

MAX_WORKERS_AT_ONCE = 64
MAX_WATCH_S = 20.0
"""Of an idle connection; the gateway keeps them for 3 s unless it is told otherwise."""
_MAX_SHOWN_CHARS = 60
MAX_CALLS_IN_A_ROW = 5
"""A registration makes three, each of which may have an older name."""
_ROUTE = "/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
"""What a decode worker of SGLang 0.5.23 asks first; answered without any side effect."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one worker says, now.

    Attributes:
        spec: How it was given.
        probe: Whether it can be connected to and is ready.
        info: What it is; ``None`` if it did not say.
        server: SGLang's ``/server_info``, whole.
        loads: Rows of its load counters.
        bootstrap: What answers on its bootstrap port; ``None``: it has none, or nobody knows it.
        bootstrap_port: The port that was asked.
        keep_alive: How long it keeps idle connections; ``None``: not measured.
        faults: What could not be asked, and why, by the name of the call.
        gateway: How a running gateway sees it; ``None``: no gateway was asked.
        took_s: How long everything took.
    """

    spec: WorkerSpec
    probe: ProbeResult
    info: WorkerInfo | None = None
    server: Mapping[str, Any] = field(default_factory=dict)
    loads: tuple[Mapping[str, Any], ...] = ()
    bootstrap: JsonAnswer | None = None
    bootstrap_port: int | None = None
    keep_alive: KeepAlive | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    gateway: Mapping[str, Any] | None = None
    took_s: float = 0.0

    @property
    def url(self) -> str:
        """The worker's URL."""
        return self.spec.url

    @property
    def is_reachable(self) -> bool:
        """It could be connected to."""
        return not self.probe.is_connect_failure

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The operator's list if there is one, else what the worker said."""
        return self.spec.model_ids or (self.info.model_ids if self.info is not None else ())


@dataclass(frozen=True, slots=True)
class Premises:
    """What the gateway goes by, and how long the doctor waits.

    Attributes:
        idle_s: How long the gateway keeps an idle connection to a worker.
        margin_s: How much longer the worker should keep it.
        lease_s: How long a prefill worker is taken to keep unread blocks.
        call_s: Longest wait for one call.
        has_tokenizer: The gateway was told where the model's tokenizer is; ``None``: not known.
    """

    idle_s: float = 3.0
    margin_s: float = 1.0
    lease_s: float = 30.0
    call_s: float = 5.0
    has_tokenizer: bool | None = None

    @property
    def watch_s(self) -> float:
        """How long an idle connection is watched."""
        return min(self.idle_s + self.margin_s, MAX_WATCH_S)

    @property
    def worker_s(self) -> float:
        """Longest time for one worker: its calls one after another, and the idle connection."""
        return MAX_CALLS_IN_A_ROW * self.call_s + self.watch_s


async def read_fleet(
    clients: WorkerClients,
    workers: Sequence[tuple[WorkerSpec, Mapping[str, Any] | None]],
    premises: Premises,
    progress: Callable[[Reading], None],
) -> tuple[Reading, ...]:
    """Ask all workers.

    Args:
        clients: Makes the connections; closed by whoever made it.
        workers: Each with a running gateway's view of it, if there is one.
        premises: What the gateway goes by.
        progress: Told of each worker when it is through.

    Returns:
        The readings, in the order of the workers.
    """
    gate = asyncio.Semaphore(MAX_WORKERS_AT_ONCE)

    async def read(spec: WorkerSpec, seen: Mapping[str, Any] | None) -> Reading:
        async with gate:
            reading = await _WorkerRound(clients, spec, seen, premises).read()
        progress(reading)
        return reading

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read(spec, seen)) for spec, seen in workers]
    return tuple(task.result() for task in tasks)


class _WorkerRound:
    """One worker's calls, and what has come of them so far."""

    def __init__(
        self,
        clients: WorkerClients,
        spec: WorkerSpec,
        seen: Mapping[str, Any] | None,
        premises: Premises,
    ) -> None:
        self._spec = spec
        self._seen = seen
        self._premises = premises
        self._worker = Worker(spec)
        self._clients = clients
        self._found: dict[str, Any] = {}
        self._faults: dict[str, str] = {}

    async def read(self) -> Reading:
        """Make every call that makes sense; a worker that keeps talking is cut off."""
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        try:
            async with asyncio.timeout(self._premises.worker_s):
                await self._ask_all()
        except TimeoutError:
            late = f"It was not through after {self._premises.worker_s:g} s."
            self._found.setdefault("probe", ProbeResult(False, late))
            self._faults.setdefault("time", late)
        # That it sends tokenizer files is all that counts.
        self._found.pop("tokenizer", None)
        return Reading(
            self._spec,
            **self._found,
            faults=self._faults,
            gateway=self._seen,
            took_s=loop.time() - since_s,
        )

    async def _ask_all(self) -> None:
        client = self._clients.control(self._worker)
        probe = self._found["probe"] = await client.probe()
        if probe.is_connect_failure:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note("loads", self._loads()))
            if self._spec.engine is Engine.SGLANG:
                sglang = self._clients.get(self._worker)
                group.create_task(self._note("server", sglang.server_info()))
                if probe.ok:
                    watching = sglang.keep_alive(self._premises.watch_s)
                    group.create_task(self._note("keep_alive", watching))
            elif probe.ok and self._premises.has_tokenizer is False:
                vllm = self._clients.vllm(self._worker)
                group.create_task(self._note("tokenizer", _first_piece(vllm)))
            await self._note("info", client.info())
            await self._ask_bootstrap()

    async def _note(self, name: str, call: Awaitable[Any]) -> None:
        try:
            self._found[name] = await call
        except (UpstreamError, WorkerRefused, *CALL_FAILURES) as exc:
            self._faults[name] = str(exc) or type(exc).__name__

    async def _loads(self) -> tuple[Mapping[str, Any], ...]:
        answer = await self._clients.control(self._worker).loads()
        rows = answer.get("loads")
        rows = rows if isinstance(rows, list) else []
        return tuple(row for row in rows if isinstance(row, dict))

    async def _ask_bootstrap(self) -> None:
        """Ask the bootstrap server what a decode worker would ask it."""
        info: WorkerInfo | None = self._found.get("info")
        if self._spec.role is not Role.PREFILL:
            return
        port, target = self._spec.bootstrap_port, _ROUTE
        if self._spec.engine is Engine.VLLM:
            if info is None or info.vllm is None or info.vllm.kv_connector != MOONCAKE_NAME:
                return
            port, target = port or MOONCAKE_PORT, "/query"
        elif port is None and info is not None:
            port = info.bootstrap_port
        if port is None:
            return
        self._found["bootstrap_port"] = port
        self._found["bootstrap"] = await get_json(
            f"http://{self._spec.host}:{port}", target, timeout_s=self._premises.call_s
        )


async def _first_piece(worker: VllmWorker) -> int:
    """See whether a worker sends tokenizer files, without taking them all."""
    pieces = worker.tokenizer_bundle()
    try:
        return len(await anext(pieces))
    finally:
        await pieces.aclose()


def as_text(value: object) -> str:
    """Write a value of a worker's answer as an operator would; long ones are cut."""
    if value is None or value == "":
        return "none"
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    n_chars = len(text)
    return text if n_chars <= _MAX_SHOWN_CHARS else f"{text[:40]}... ({n_chars} characters)"
