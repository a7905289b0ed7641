"""A plain gRPC client for the simulated vLLM workers: none of the gateway's code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from app.sim import VllmSim
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.generated.vllm_engine_pb2_grpc import VllmEngineStub

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
KEEP = {"do_remote_decode": True, "do_remote_prefill": False}


class Talk:
    """Asks workers directly."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._channels: dict[VllmSim, grpc.aio.Channel] = {}

    async def stub(self, sim: VllmSim) -> Any:
        """The RPCs of a worker."""
        if sim not in self._channels:
            channel = grpc.aio.insecure_channel(sim.url.partition("://")[2], UNLIMITED)
            self._channels[sim] = await self._stack.enter_async_context(channel)
        return VllmEngineStub(self._channels[sim])

    def request(
        self,
        prompt: str,
        *,
        request_id: str = "r",
        stream: bool = False,
        kv: Any = None,
        rank: int | None = None,
        **params: Any,
    ) -> pb.GenerateRequest:
        """A request with a prompt of bytes; ``kv`` is an object or a text."""
        made = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_ids=prompt.encode()),
            sampling_params=pb.SamplingParams(**params),
            stream=stream,
        )
        if kv is not None:
            made.kv_transfer_params_json = kv if isinstance(kv, str) else json.dumps(kv)
        if rank is not None:
            made.data_parallel_rank = rank
        return made

    async def ask(
        self, sim: VllmSim, prompt: str = "Hello", **named: Any
    ) -> list[pb.GenerateResponse]:
        """Everything a worker answers."""
        stub = await self.stub(sim)
        return [message async for message in stub.Generate(self.request(prompt, **named))]

    async def whole(self, sim: VllmSim, prompt: str = "Hello", **named: Any) -> pb.GenerateComplete:
        """The one message of an answer that is not streamed."""
        [message] = await self.ask(sim, prompt, **named)
        return message.complete

    async def prefill(
        self, sim: VllmSim, prompt: str = "Hello", *, kv: Any = KEEP, **named: Any
    ) -> pb.GenerateComplete:
        """The prefill leg as a gateway sends it."""
        return await self.whole(sim, prompt, kv=kv, max_tokens=1, ignore_eos=True, **named)

    async def refused(self, sim: VllmSim, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
        """How a worker refuses a request."""
        stub = await self.stub(sim)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Generate(request):
                pass
        return caught.value

    async def until(self, is_so: Callable[[], bool], timeout_s: float = 2.0) -> None:
        """Wait for what a worker does in its own time."""
        async with asyncio.timeout(timeout_s):
            while not is_so():  # noqa: ASYNC110 - the worker tells nobody
                await asyncio.sleep(0.005)


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    """A client whose connections are closed afterwards."""
    async with AsyncExitStack() as stack:
        yield Talk(stack)
