"""The limit on a first message that is set only when the call is under way."""

from __future__ import annotations

import asyncio

from app.protocol.engine import EngineRequest, Sampling
from app.sim import VllmConfig, VllmFault, VllmFaultKind, VllmSim
from app.upstream.failures import SilenceTimeout
from app.upstream.vllm_call import VllmCall
from app.upstream.vllm_worker import VllmWorker
from app.workers.worker import Role, Worker, WorkerSpec

REQUEST = EngineRequest("r", [1, 2, 3], "", Sampling(max_tokens=4, ignore_eos=True), stream=True)


async def call_to(engine: VllmSim, worker: VllmWorker, kind: VllmFaultKind | None) -> VllmCall:
    """A call that was sent, without a limit."""
    if kind is not None:
        engine.faults.add(VllmFault(kind=kind, after_messages=1))
    call = worker.generate(REQUEST)
    await call.connect()
    await call.send()
    return call


async def silence_of(kind: VllmFaultKind) -> SilenceTimeout | None:
    """Sets the limit while a call is read; returns what it did within a third of a second."""
    async with VllmSim(VllmConfig(role="regular", connector="")) as engine:
        worker = VllmWorker(Worker(WorkerSpec(engine.url, Role.REGULAR)))
        call = await call_to(engine, worker, kind)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            reading = group.create_task(_read(call))
            await asyncio.sleep(0.05)
            call.limit_first(0.1)
            silence = await reading
        call.cancel()
        await worker.aclose()
    return silence


async def _read(call: VllmCall) -> SilenceTimeout | None:
    try:
        async with asyncio.timeout(0.35):
            await anext(call)
            await anext(call)
    except SilenceTimeout as silence:
        return silence
    except TimeoutError:
        return None
    raise AssertionError("two messages came")


async def test_limit_that_comes_later() -> None:
    """It ends a wait that has begun already."""
    silence = await silence_of(VllmFaultKind.HANG)
    assert silence is not None
    assert (silence.phase, "0.1 s" in str(silence)) == ("head", True)


async def test_limit_that_comes_too_late() -> None:
    """The first message is there: what follows has no such limit."""
    assert await silence_of(VllmFaultKind.STALL) is None


async def test_a_call_that_is_over_gets_no_timer() -> None:
    """The limit of a decode leg may come when its request has left."""
    async with VllmSim(VllmConfig(role="regular", connector="")) as engine:
        worker = VllmWorker(Worker(WorkerSpec(engine.url, Role.REGULAR)))
        call = await call_to(engine, worker, VllmFaultKind.HANG)
        call.cancel()
        call.limit_first(0.1)
        assert call._clock._timer is None
        await worker.aclose()
