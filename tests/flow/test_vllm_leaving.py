"""A client that leaves a vLLM pair, at any of four stages: no block stays pinned, no room held.

The leases are far longer than any test, so what comes free was released. What may be left over is
listed in ``vllm_fleet``: pinned blocks, room of requests that are over, Mooncake's asks for blocks.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.dispatch.token_call import TokenCall
from app.dispatch.token_leg import Frames
from app.sim import VllmFault, VllmFaultKind
from app.upstream.vllm_call import VllmCall
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, body_of, until
from tests.flow.vllm_fleet import VllmFleet, asked, fleet_of, sent_by

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
CONNECTORS = pytest.mark.parametrize("connector", ["nixl", "mooncake"])
ROUTES = pytest.mark.parametrize("route", [CHAT, GENERATE])
FREE_WITHIN_S = 2.0


async def leave_when(
    fleet: VllmFleet, body: dict[str, Any], is_there: Callable[[], object], route: str = CHAT
) -> None:
    """Sends a request and hangs up once the workers are where they should be.

    Within two seconds nothing of it is left anywhere, and nobody paid.
    """
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(route, body))
        await until(is_there)
        assert not asking.done()
        asking.cancel()
    await free_soon(fleet)


async def free_soon(fleet: VllmFleet) -> None:
    """Nothing is left within two seconds; so no lease ended."""
    began_s = time.monotonic()
    await fleet.settle()
    assert time.monotonic() - began_s < FREE_WITHIN_S
    for worker in fleet.workers:
        assert not any(rank.receiving or rank.n_held for rank in worker.engine.ranks)
        assert worker.counters.n_expired == 0
        assert worker.counters.n_garbage_reads == 0
    assert fleet.charged == []


@BOTH
@CONNECTORS
@ROUTES
async def test_during_prefill(
    stack: AsyncExitStack, model: Path, connector: str, route: str, stream: bool
) -> None:
    """Prefill is aborted; nothing is pinned by it, and decode waits for nothing."""
    fleet = await fleet_of(stack, model, connector, prefill={"prefill_tokens_per_s": 1.0})
    body = body_of(route, stream=stream)
    await leave_when(fleet, body, lambda: fleet.prefill.engine.jobs, route)
    assert fleet.prefill.aborted == [asked(fleet.prefill).request_id]
    assert not fleet.decode.seen


def is_decode_leg(call: VllmCall) -> bool:
    """Whether a call carries a handoff to its reader."""
    found: bool = json.loads(sent_by(call).kv_transfer_params_json)["do_remote_prefill"]
    return found


@asynccontextmanager
async def slow_connections(seconds: float) -> AsyncIterator[Callable[[], bool]]:
    """Decode legs take time to be connected; yields whether one is at it."""
    connect, n_connecting = VllmCall.connect, 0

    async def connect_slowly(call: VllmCall) -> None:
        nonlocal n_connecting
        if is_decode_leg(call):
            n_connecting += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                n_connecting -= 1
        await connect(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmCall, "connect", connect_slowly)
        yield lambda: n_connecting > 0


@BOTH
@CONNECTORS
@ROUTES
async def test_between_the_legs(
    stack: AsyncExitStack, model: Path, connector: str, route: str, stream: bool
) -> None:
    """Prefill has pinned its blocks and decode was not asked: it is asked, to let go of them."""
    fleet = await fleet_of(stack, model, connector)
    is_connecting = await stack.enter_async_context(slow_connections(0.3))
    await leave_when(
        fleet,
        body_of(route, stream=stream),
        lambda: fleet.n_pinned_blocks and is_connecting() and not fleet.decode.seen,
        route,
    )
    assert fleet.counts == {connector: 1, "released": 1}
    assert fleet.prefill.counters.n_releases == 1
    assert asked(fleet.decode).sampling_params.max_tokens == 1


@CONNECTORS
async def test_between_the_legs_of_a_busy_decode(
    stack: AsyncExitStack, model: Path, connector: str
) -> None:
    """The leg that lets go is aborted in the queue."""
    fleet = await fleet_of(stack, model, connector, decode={"lead_s": 60.0})
    is_connecting = await stack.enter_async_context(slow_connections(0.3))
    await leave_when(
        fleet,
        body_of(CHAT),
        lambda: fleet.n_pinned_blocks and is_connecting() and not fleet.decode.seen,
    )
    assert fleet.decode.aborted == [asked(fleet.decode).request_id]
    assert fleet.prefill.counters.n_releases == 1


@BOTH
async def test_between_the_legs_of_several_choices(
    stack: AsyncExitStack, model: Path, stream: bool
) -> None:
    """Every handoff that was not read is released."""
    fleet = await fleet_of(stack, model)
    is_connecting = await stack.enter_async_context(slow_connections(0.3))
    await leave_when(
        fleet,
        body_of(CHAT, stream=stream, n=3),
        lambda: fleet.counts == {"nixl": 3} and is_connecting(),
    )
    assert fleet.counts == {"nixl": 3, "released": 3}
    assert fleet.prefill.counters.n_releases == 3


@BOTH
@CONNECTORS
@ROUTES
async def test_while_decode_queues(
    stack: AsyncExitStack, model: Path, connector: str, route: str, stream: bool
) -> None:
    """Decode's call is cancelled, and its engine lets prefill know."""
    fleet = await fleet_of(stack, model, connector, decode={"lead_s": 60.0})
    await leave_when(
        fleet,
        body_of(route, stream=stream),
        lambda: fleet.decode.engine.jobs and fleet.n_pinned_blocks,
        route,
    )
    assert fleet.decode.aborted == [asked(fleet.decode).request_id]
    assert fleet.prefill.counters.n_releases == 1
    assert len(fleet.decode.seen) == 1


@BOTH
async def test_before_decode_took_the_call(
    stack: AsyncExitStack, model: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end must not overtake decode's handler, or nobody would tell prefill."""
    # Here the request sees its leg end, as no request does that has left.
    settings = {"disable_circuit_breaker": True}
    fleet = await fleet_of(stack, model, settings=settings)
    calls, start, send = list[TokenCall](), TokenCall.start, VllmCall.send

    async def start_and_note(call: TokenCall) -> Frames:
        calls.append(call)
        return await start(call)

    async def send_and_leave(call: VllmCall) -> None:
        await send(call)
        if is_decode_leg(call):
            # In the same turn of the loop: the request is still in this process's buffers.
            calls[-1].finish()

    monkeypatch.setattr(TokenCall, "start", start_and_note)
    monkeypatch.setattr(VllmCall, "send", send_and_leave)
    for n_before in range(10):
        prompt = f"prompt {n_before}"
        await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=stream, prompt=prompt))
        await free_soon(fleet)
    assert fleet.prefill.counters.n_releases == 10


@BOTH
@CONNECTORS
async def test_while_the_cache_is_on_its_way(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool
) -> None:
    """The transfer ends by itself; decode holds room for it until then."""
    fleet = await fleet_of(stack, model, connector, decode={"transfer_s_per_token": 0.06})
    await leave_when(
        fleet,
        body_of(CHAT, stream=stream),
        lambda: fleet.decode.engine.ranks[0].receiving and fleet.n_pinned_blocks,
    )
    assert fleet.decode.aborted == [asked(fleet.decode).request_id]
    assert fleet.decode.counters.n_orphaned_loads == fleet.decode.counters.n_transfers == 1


@BOTH
async def test_mooncake_decode_that_has_its_blocks(
    stack: AsyncExitStack, model: Path, stream: bool
) -> None:
    """It computes its first token: a cancel would have prefill wait for a second reader."""
    fleet = await fleet_of(stack, model, "mooncake", decode={"prefill_tokens_per_s": 1.5})
    body = body_of(CHAT, stream=stream)
    await leave_when(fleet, body, lambda: fleet.decode.counters.n_transfers)
    assert fleet.decode.aborted == [asked(fleet.decode).request_id]
    assert fleet.prefill.counters.n_asks_in_vain == fleet.decode.generated_tokens == 0


@BOTH
@CONNECTORS
@pytest.mark.parametrize("n", [1, 2])
async def test_in_mid_stream(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool, n: int
) -> None:
    """Decode's calls are ended; prefill has done its part and is left alone."""
    fleet = await fleet_of(stack, model, connector, decode={"decode_step_s": 0.005})
    body = body_of(CHAT, stream=stream, n_tokens=2000, n=n)
    await leave_when(
        fleet,
        body,
        lambda: fleet.decode.generated_tokens > 10 * n and not fleet.n_pinned_blocks,
    )
    # Once it has spoken a cancel is as good, and an answer in one piece is spoken at its end.
    ended = fleet.decode.cancelled if stream else fleet.decode.aborted
    assert sorted(ended) == sorted(seen.request_id for seen in fleet.decode.seen)
    assert fleet.prefill.cancelled == []
    assert fleet.decode.generated_tokens < 1000


@BOTH
async def test_during_the_second_try(stack: AsyncExitStack, model: Path, stream: bool) -> None:
    """After a failed load another decode worker has the handoff: it is the one that lets go."""
    fleet = await fleet_of(stack, model, n_decodes=2, decode={"lead_s": 60.0})
    one, other = fleet.decodes
    one.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
    body = body_of(CHAT, stream=stream)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(CHAT, body))
        await until(lambda: other.engine.jobs)
        asking.cancel()
    await fleet.settle()
    assert fleet.prefill.counters.n_releases == 1
    assert other.aborted == [other.seen[0].request_id]
