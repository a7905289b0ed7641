"""The workers' own counters of the requests they hold, whatever the engine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

import grpc.aio
import httpx

from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.generated.vllm_engine_pb2_grpc import VllmEngineStub

BUSY_WITHIN_S = 10.0
NOTICED_WITHIN_S = 1.0
ASKING_TIMEOUT_S = 5.0
QUEUES = (
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
    "decode_transfer_queue_reqs",
    "decode_retracted_queue_reqs",
)


class Counter(Protocol):
    """Asks one worker."""

    async def n_requests(self) -> int:
        """Running, waiting and in transfer."""


class SglangCounter:
    """``/v1/loads`` of an SGLang worker."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def n_requests(self) -> int:
        """Running, waiting and in transfer, over all ranks."""
        answer = await self._http.get(f"{self._url}/v1/loads")
        total = 0
        for load in answer.raise_for_status().json()["loads"]:
            total += load["num_running_reqs"] + load["num_waiting_reqs"]
            total += sum(load["disaggregation"][name] for name in QUEUES)
        return total


class VllmCounter:
    """``GetLoads`` of a vLLM worker: what its scheduler said after its last step."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._engine = VllmEngineStub(channel)

    async def n_requests(self) -> int:
        """Running and waiting, over all ranks; a wait for the KV cache is one, too."""
        loads = await self.loads()
        return sum(load.num_running_reqs + load.num_waiting_reqs for load in loads)

    async def n_used_tokens(self) -> int:
        """Room in the KV cache that is taken, in tokens: requests, and blocks kept for decode."""
        return sum(load.num_used_tokens for load in await self.loads())

    async def loads(self) -> list[pb.SchedulerLoad]:
        """One for each rank."""
        answer: pb.GetLoadsResponse = await self._engine.GetLoads(
            pb.GetLoadsRequest(), timeout=ASKING_TIMEOUT_S
        )
        return list(answer.loads)


class Workers:
    """All workers together; to be entered.

    Args:
        urls: Their base URLs, prefill first.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self._open = AsyncExitStack()
        self.each: tuple[Counter, ...] = ()

    async def __aenter__(self) -> Self:
        """Opens the connections."""
        http = httpx.AsyncClient(trust_env=False, timeout=ASKING_TIMEOUT_S)
        await self._open.enter_async_context(http)
        counters: list[Counter] = []
        for url in self._urls:
            scheme, _, target = url.partition("://")
            if scheme == "grpc":
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
                channel = grpc.aio.insecure_channel(target, options=options)
                await self._open.enter_async_context(channel)
                counters.append(VllmCounter(channel))
            else:
                counters.append(SglangCounter(http, url))
        self.each = tuple(counters)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes them."""
        await self._open.aclose()

    async def n_requests(self) -> int:
        """Running, waiting and in transfer, on all workers."""
        return sum([await counter.n_requests() for counter in self.each])

    async def until_busy(self) -> None:
        """Waits until a worker holds a request."""
        async with asyncio.timeout(BUSY_WITHIN_S):
            while not await self.n_requests():  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.02)

    async def until_idle(self, within_s: float = NOTICED_WITHIN_S) -> float:
        """Waits until no worker holds a request; returns the seconds it took."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while n := await self.n_requests():
            waited_s = loop.time() - start_s
            assert waited_s < within_s, f"{n} requests are still held after {waited_s:.2f} s"
            await asyncio.sleep(0.02)
        return loop.time() - start_s
