"""Whether the process lives, whether it can serve, and whether workers really generate."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from app.api.pairs import first_serving, what_is_missing
from app.api.parts import GatewayParts
from app.api.worker_calls import ask_vllm, ask_worker, leg_of
from app.errors import LegRejected, NoPairAvailable, WorkerError
from app.protocol.bootstrap import mint_rid
from app.protocol.engine import EngineRequest, Sampling
from app.protocol.routes import Route
from app.workers.states import State
from app.workers.worker import Engine, Worker

if TYPE_CHECKING:
    from app.upstream.vllm_worker import VllmWorker

router = APIRouter(tags=["health"])

GENERATE_TIMEOUT_S = 30.0
"""SGLang gives its own probe generation 20 s (0.5.23)."""


@router.get("/health", response_class=PlainTextResponse, summary="The process lives")
@router.head("/health", include_in_schema=False)
@router.get("/liveness", response_class=PlainTextResponse, summary="The process lives")
@router.head("/liveness", include_in_schema=False)
async def liveness() -> PlainTextResponse:
    """Always 200 `OK`, without workers and while ending too."""
    return PlainTextResponse("OK")


@router.get("/readiness", summary="Some model can be served")
@router.head("/readiness", include_in_schema=False)
async def readiness(gateway: GatewayParts) -> JSONResponse:
    """200 with counts, or 503 with the reason."""
    if gateway.life.is_ending:
        reason = "the gateway is shutting down"
    elif not first_serving(gateway.registry, decodes_alone=gateway.decodes_alone):
        reason = what_is_missing(gateway.registry)
    else:
        workers = gateway.registry.workers()
        n_ready = sum(worker.state is State.READY for worker in workers)
        told = {"status": "ready", "healthy_workers": n_ready, "total_workers": len(workers)}
        if gateway.state is not None:
            # It serves without; whoever watches should know all the same.
            told["shared_state"] = "ok" if gateway.state.is_up else "away"
        return JSONResponse(told)
    return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)


@router.get("/health_generate", response_class=PlainTextResponse, summary="Workers generate")
async def health_generate(gateway: GatewayParts) -> PlainTextResponse:
    """Asks both members of one ready pair, or a worker that serves alone; 200 names them."""
    serving = first_serving(gateway.registry, decodes_alone=gateway.decodes_alone)
    if not serving:
        raise NoPairAvailable(
            f"There is nobody ready to ask: {what_is_missing(gateway.registry)}.",
            retry_after_s=1,
        )

    async def probe(worker: Worker) -> WorkerError | None:
        try:
            if worker.spec.engine is Engine.VLLM:
                return await ask_vllm(_one_token(gateway.clients.vllm(worker)), worker)
            answer = await ask_worker(
                gateway.clients, worker, ("/health_generate",), timeout_s=GENERATE_TIMEOUT_S
            )
        except WorkerError as failure:
            return failure
        if answer.status == 200:
            return None
        return LegRejected(
            f"The {worker.spec.role} worker {worker.spec.url} answered {answer.status} to "
            "/health_generate.",
            leg=leg_of(worker),
            worker_id=worker.spec.id,
            status=503,
            code="health_generate_failed",
        )

    async with asyncio.TaskGroup() as group:
        probes = [group.create_task(probe(worker)) for worker in serving]
    for task in probes:
        failure = task.result()
        if failure is not None:
            raise failure
    names = (f"{worker.spec.role} {worker.spec.url}" for worker in serving)
    return PlainTextResponse(f"OK: {', '.join(names)}")


async def _one_token(client: VllmWorker) -> None:
    """Has a vLLM worker generate; without a handoff each role computes by itself."""
    request = EngineRequest(
        request_id=mint_rid(Route.GENERATE),
        prompt_ids=(0,),
        prompt_text="",
        sampling=Sampling(max_tokens=1, ignore_eos=True),
        stream=False,
    )
    call = client.generate(
        request, first_timeout_s=GENERATE_TIMEOUT_S, gap_timeout_s=GENERATE_TIMEOUT_S
    )
    async with call:
        async for _ in call:
            pass
