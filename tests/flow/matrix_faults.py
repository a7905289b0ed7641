"""How each fault of the matrix is made, and mended, before a running gateway."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.errors import Leg
from app.sim import Cut, FaultKind, SglangSim, SimConfig, VllmFault, VllmFaultKind
from app.sim import Fault as SglangFault
from app.sim.server import QUICK
from tests.flow import vllm_fleet
from tests.flow.fleet import BOUND_S, Fleet, serving, until
from tests.flow.matrix_cells import GRPC_STATUS, LEGS, Case, Fault, Saw, Transfer
from tests.flow.matrix_proxy import ForgetfulProxy
from tests.soak.sim_process import SimProcess

SILENCE_S = 0.6
"""Longest silence that the gateways here allow a leg."""
PING_MS = int(2000 * SILENCE_S)
"""Longest wait for a ping on a gRPC connection; the silence limit strikes first."""
SETTINGS: dict[str, Any] = {
    "request_timeout_secs": SILENCE_S,
    "health_check_timeout_secs": 1.0,
    "cb_success_threshold": 1,
    "cb_timeout_duration_secs": 0.1,
}
SLOW_S = 0.15
LEASE_S = 0.4
"""How long a prefill worker keeps blocks that nobody reads or releases."""
N_TOKENS = 12
N_EVENTS = 2
"""Messages of decode that pass before it fails in mid-stream."""
CONSTRAINT = {"smg-constraint-failed": "engine"}


@dataclass
class Scene:
    """A gateway before one pair, of which one worker will fail.

    Attributes:
        case: The cell.
        fleet: The gateway and both workers; its leftovers leave tasks out, as the tasks of other
            scenes are in the same loop.
        faulty: The worker that fails, as the gateway sees it.
        other: The other one.
        strike: Makes the fault.
        mend: Makes the worker well again.
    """

    case: Case
    fleet: Fleet
    faulty: Any
    other: Any
    strike: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]

    def __post_init__(self) -> None:
        everything = self.fleet.leftovers
        self._everything = everything
        self.fleet.leftovers = lambda: {  # type: ignore[method-assign]
            name: what for name, what in everything().items() if name != "tasks"
        }

    async def has_no_tasks_but(self, known: set[asyncio.Task[Any]]) -> None:
        """Waits until no task of a request is left, in a loop where all requests are through."""
        self.fleet.tasks = known
        await until(lambda: not self._everything(), self._everything)


@dataclass
class Elsewhere:
    """A worker in another process, for a fleet that looks into its workers."""

    process: SimProcess
    n_active: int = 0
    n_pinned_blocks: int = 0
    n_held_tokens: int = 0
    n_waiting_asks: int = 0
    engine: Any = field(default_factory=lambda: SimpleNamespace(jobs=()))

    @property
    def url(self) -> str:
        """The worker's URL."""
        return self.process.url

    @property
    def bootstrap_port(self) -> int | None:
        """The worker's."""
        return self.process.bootstrap_port

    def held(self) -> dict[str, int]:
        """What requests occupy there."""
        found: dict[str, int] = self.process.ask("/sim/held")
        return found


class Stoppables:
    """Workers in processes of their own, started when first asked for.

    Args:
        model: The folder of the tokenizer.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._started: dict[tuple[Transfer, Leg], SimProcess] = {}

    def get(self, transfer: Transfer, leg: Leg) -> SimProcess:
        """The one worker of this kind."""
        found = self._started.get((transfer, leg))
        if found is None:
            engine: Any = transfer.value.lower()
            quick = ["--disconnect-notice-s", "0.2", "--prefill-tokens-per-s", "1e9"]
            quick += ["--decode-step-s", "0", "--lease-s", f"{LEASE_S}"]
            quick += ["--mooncake-abort-s", f"{LEASE_S}"]
            found = SimProcess(leg, engine, self._model, *quick)
            found.start()
            self._started[transfer, leg] = found
        return found

    def end(self) -> None:
        """Ends them all."""
        for process in self._started.values():
            process.end()


@asynccontextmanager
async def scene_of(case: Case, model: Path, stoppables: Stoppables) -> AsyncIterator[Scene]:
    """Starts a pair and a gateway in which a fault is ready to be made."""
    async with AsyncExitStack() as stack:
        pair = {leg: await _worker(stack, case, leg, model, stoppables) for leg in LEGS}
        if case.transfer is Transfer.SGLANG:
            opening: Any = serving([pair["prefill"]], [pair["decode"]], **SETTINGS)
        else:
            own = {"model_path": str(model), **SETTINGS}
            opening = vllm_fleet.serving([pair["prefill"]], [pair["decode"]], **own)
        fleet = await stack.enter_async_context(opening)
        if case.transfer is not Transfer.SGLANG:
            # Compiles the chat template: it stops the loop for longer than all that follows.
            chat = {"messages": [{"role": "user", "content": "Hello"}]}
            assert (await fleet.http.post("/tokenize", json=chat)).is_success
        other = pair["decode" if case.leg == "prefill" else "prefill"]
        yield Scene(case, fleet, pair[case.leg], other, *_plan(case, fleet, pair[case.leg]))


async def _worker(
    stack: AsyncExitStack, case: Case, leg: Leg, model: Path, stoppables: Stoppables
) -> Any:
    is_faulty = leg == case.leg
    if is_faulty and case.fault is Fault.STOPPED:
        worker: Any = Elsewhere(stoppables.get(case.transfer, leg))
        stack.callback(worker.process.signal, signal.SIGCONT)
        return worker
    worker = await stack.enter_async_context(_sim(case, leg, model))
    if is_faulty and case.fault is Fault.HALF_OPEN:
        worker = await stack.enter_async_context(ForgetfulProxy(worker))
    return worker


def _sim(case: Case, leg: Leg, model: Path) -> Any:
    if case.transfer is Transfer.SGLANG:
        # A prefill that fails after the transfer finds decode computing.
        is_busy_other = leg != case.leg and case.cell.other is Saw.ENDED
        is_slow = is_busy_other and case.fault is Fault.HALF_BODY
        step_s = 0.02 if is_slow else 0.0
        return SglangSim(SimConfig(role=leg, **QUICK, decode_step_s=step_s))
    # Who asks for blocks that are gone waits as long again.
    leases = {"lease_s": LEASE_S, "mooncake_abort_s": 4 * LEASE_S}
    return vllm_fleet.sim(leg, model, case.transfer.value.lower(), **leases)


Step = Callable[[], Awaitable[None]]


def _plan(case: Case, fleet: Fleet, worker: Any) -> tuple[Step, Step]:
    """How the fault is made and mended."""
    match case.fault:
        case Fault.REFUSED:
            return worker.kill, worker.restart
        case Fault.STOPPED:
            return (
                _calling(worker.process.signal, signal.SIGSTOP),
                _calling(worker.process.signal, signal.SIGCONT),
            )
        case Fault.HALF_OPEN:
            return _calling(worker.forget), lambda: _found_out(fleet, worker)
    return _calling(worker.faults.add, order_of(case)), _calling(worker.faults.clear)


def _calling(function: Callable[..., object], *args: object) -> Step:
    async def step() -> None:
        function(*args)

    return step


async def _found_out(fleet: Fleet, worker: Any) -> None:
    """New connections are well, but gRPC has one only: keepalive must find that it is dead."""
    client = fleet.gateway.clients.control(fleet.live(worker))
    async with asyncio.timeout(BOUND_S):
        while not (await client.probe()).ok:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)


def order_of(case: Case) -> SglangFault | VllmFault:
    """What the simulator is told."""
    if case.transfer is Transfer.SGLANG:
        return _sglang_order(case)
    return _vllm_order(case)


def _sglang_order(case: Case) -> SglangFault:
    is_cut = case.leg == "decode" and case.is_stream
    match case.fault:
        case Fault.HANG:
            return SglangFault(kind=FaultKind.HANG)
        case Fault.HANG_MIDWAY if is_cut:
            return SglangFault(kind=FaultKind.CUT, how=Cut.HANG, after_events=N_EVENTS)
        case Fault.HANG_MIDWAY:
            return SglangFault(kind=FaultKind.HALF_BODY, how=Cut.HANG)
        case Fault.RESET:
            return SglangFault(kind=FaultKind.RESET)
        case Fault.HALF_BODY if is_cut:
            return SglangFault(kind=FaultKind.CUT, how=Cut.EOF, after_events=N_EVENTS)
        case Fault.HALF_BODY:
            # Of a stream the cut comes when decode has spoken.
            return SglangFault(kind=FaultKind.HALF_BODY, delay_s=0.1 if case.is_stream else 0.0)
        case Fault.GARBAGE:
            return SglangFault(kind=FaultKind.GARBAGE)
        case Fault.SLOW:
            return SglangFault(kind=FaultKind.SLOW, delay_s=SLOW_S)
    headers = {"retry-after": "7"} if case.fault is Fault.STATUS_429 else {}
    status = int(case.fault.removeprefix("bare "))
    return SglangFault(kind=FaultKind.REFUSE, status=status, headers=headers)


def _vllm_order(case: Case) -> VllmFault:
    match case.fault:
        case Fault.HANG:
            return VllmFault(kind=VllmFaultKind.HANG)
        case Fault.HANG_MIDWAY:
            return VllmFault(kind=VllmFaultKind.STALL, after_messages=N_EVENTS)
        case Fault.RESET:
            return VllmFault(kind=VllmFaultKind.CUT)
        case Fault.GARBAGE:
            return VllmFault(kind=VllmFaultKind.GARBAGE)
        case Fault.SLOW:
            return VllmFault(kind=VllmFaultKind.SLOW, delay_s=SLOW_S)
    status = GRPC_STATUS[case.fault]
    trailing = CONSTRAINT if case.fault is Fault.STATUS_422 else {}
    return VllmFault(
        kind=VllmFaultKind.REFUSE, status=status, message="Refused on command.", trailing=trailing
    )


async def available(fleet: Fleet) -> None:
    """Waits until every worker may be asked again."""
    now_s = asyncio.get_running_loop().time
    workers = fleet.gateway.registry.workers()
    await until(lambda: all(w.is_available(now_s()) for w in workers))
