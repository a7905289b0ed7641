"""A client that leaves, at every stage: both engines are told, and nothing is left behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.server.client_protocol import ClientProtocol
from app.sim import Fault, FaultKind, SglangSim, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, events, hang, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
# 200 words at 50 tokens a second: prefill outlasts every test.
SLOW_PREFILL: dict[str, Any] = {"prefill": {"prefill_tokens_per_s": 50.0}}
LONG_PROMPT = "word " * 200
LONG: dict[str, dict[str, Any]] = {CHAT: {"messages": [{"role": "user", "content": LONG_PROMPT}]}}
LONG |= {COMPLETIONS: {"prompt": LONG_PROMPT}, GENERATE: {"text": LONG_PROMPT}}


async def fleet_of(stack: AsyncExitStack, *, is_plain: bool = False, **sims: Any) -> Fleet:
    """A gateway before a simulated pair; ``is_plain``: under uvicorn's own protocol."""
    pair = await stack.enter_async_context(sim_pair(disconnect_notice_s=60.0, **sims))
    protocol = HttpToolsProtocol if is_plain else ClientProtocol
    return await stack.enter_async_context(serving([pair[0]], [pair[1]], protocol))


async def leave_when(
    fleet: Fleet, path: str, body: dict[str, Any], is_there: Callable[[], object]
) -> None:
    """Sends a request and hangs up before its answer, once the workers are where they should be."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(path, body))
        await until(is_there)
        assert not asking.done()
        asking.cancel()
    await fleet.settle()
    assert fleet.charged == []


def rids(worker: SglangSim) -> list[str]:
    """Ids of all requests that a worker saw, sorted."""
    flat: list[str] = []
    for seen in worker.seen:
        flat += seen.rid if isinstance(seen.rid, list) else [seen.rid]
    return sorted(flat)


@BOTH
@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
@pytest.mark.parametrize("is_plain", [False, True], ids=["ours", "uvicorn"])
async def test_during_prefill(
    stack: AsyncExitStack, route: str, stream: bool, is_plain: bool
) -> None:
    """Both legs are aborted by id; on /generate decode has sent its head by then."""
    fleet = await fleet_of(stack, is_plain=is_plain, **SLOW_PREFILL)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    body = body_of(route, stream=stream, **LONG[route])
    await leave_when(fleet, route, body, lambda: prefill.n_rooms and decode.n_active)
    assert prefill.aborted == decode.aborted == rids(prefill)
    assert (prefill.n_rooms, decode.generated_tokens) == (0, 0)


@BOTH
@pytest.mark.parametrize(
    ("route", "more"),
    [
        (CHAT, {"n": 3}),
        (COMPLETIONS, {"prompt": [LONG_PROMPT, LONG_PROMPT]}),
        (COMPLETIONS, {"prompt": [LONG_PROMPT, LONG_PROMPT], "n": 2}),
        (GENERATE, {"sampling_params": {"n": 2}}),
    ],
    ids=["fan-out", "batch", "fan-out of a batch", "fan-out of generate"],
)
async def test_during_prefill_of_several(
    stack: AsyncExitStack, route: str, more: dict[str, Any], stream: bool
) -> None:
    """Every child and every item is aborted, on both legs."""
    fleet = await fleet_of(stack, **SLOW_PREFILL)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    body = body_of(route, stream=stream, **(LONG[route] | more))
    n_children = body.get("n") or body.get("sampling_params", {}).get("n") or 1
    n_items = n_children * (len(body["prompt"]) if "prompt" in more else 1)
    await leave_when(
        fleet, route, body, lambda: prefill.n_rooms == n_items and decode.n_active == n_children
    )
    assert sorted(prefill.aborted) == sorted(decode.aborted) == rids(prefill)
    assert len(prefill.aborted) == n_items
    assert prefill.n_rooms == 0


@pytest.mark.parametrize("more", [{}, {"n": 2}], ids=["one", "fan-out"])
async def test_in_mid_stream(stack: AsyncExitStack, more: dict[str, Any]) -> None:
    """Decode is aborted; prefill has done its part and is left alone."""
    fleet = await fleet_of(stack, decode_step_s=0.005)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    body = body_of(CHAT, stream=True, n_tokens=2000, **more)
    async with fleet.http.stream("POST", CHAT, json=body) as answer:
        assert (await anext(answer.aiter_bytes())).startswith(b"data: ")
        await until(lambda: prefill.n_active == 0)
    await fleet.settle()
    assert sorted(decode.aborted) == rids(decode)
    assert prefill.counters.abort_calls == []
    assert decode.generated_tokens < 1000
    assert fleet.charged == []


async def test_while_connecting(stack: AsyncExitStack) -> None:
    """Nothing was sent, so nobody is asked to abort anything; the connecting ends too."""
    fleet = await fleet_of(stack)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    await decode.kill()
    stack.enter_context(deaf_port(decode.port))
    pool = fleet.gateway.clients.get(fleet.live(decode)).pool
    await leave_when(fleet, CHAT, body_of(CHAT), lambda: pool.n_active == 1)
    assert prefill.seen == []
    assert prefill.counters.abort_calls == []


@contextmanager
def deaf_port(port: int) -> Iterator[None]:
    """A port whose queue of new connections is full: connecting to it neither works nor fails."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield


@BOTH
async def test_while_prompt_logprobs_are_awaited(stack: AsyncExitStack, stream: bool) -> None:
    """Decode is through and prefill is not: only prefill is aborted."""
    answered = asyncio.Event()
    token = {"text": "a", "meta_info": {"id": "x", "finish_reason": None}}
    good = events(token) if stream else whole(200, token)

    async def speak(exchange: Exchange, body: dict[str, Any]) -> None:
        await good(exchange, body)
        answered.set()

    prefill = await stack.enter_async_context(ScriptedWorker("prefill", hang))
    decode = await stack.enter_async_context(ScriptedWorker("decode", speak))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    body = body_of(GENERATE, stream=stream, return_logprob=True, logprob_start_len=0)
    await leave_when(fleet, GENERATE, body, answered.is_set)
    assert prefill.aborted == [prefill.seen[0].rid]
    assert decode.aborted == []


async def test_while_probes_run(stack: AsyncExitStack) -> None:
    """Leaving while it is found out whose failure it was charges nobody and ends the probes."""
    fleet = await fleet_of(stack)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    text = "Decode transfer failed for request: KVTransferError"
    prefill.faults.add(Fault(kind=FaultKind.HANG))
    decode.faults.refuse(500, f'{{"message": "{text}"}}')
    for worker in (prefill, decode):
        worker.faults.add(Fault(kind=FaultKind.HANG, route="/health", times=None))
    await leave_when(fleet, CHAT, body_of(CHAT), lambda: prefill.aborted)
    assert prefill.aborted == rids(prefill)
