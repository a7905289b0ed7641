"""How a gateway stops: real processes, real signals, and what the workers saw of it."""

from __future__ import annotations

import json
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import Fault, FaultKind, SglangSim, sim_pair
from tests.flow.fleet import BOUND_S, CHAT, body_of, until
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import RawClient, head_of, post_of
from tests.flow.scripted import ScriptedWorker, whole
from tests.flow.test_client_stalls import SMALL_BUFFER, endless
from tests.flow.vllm_fleet import sim

SETTLE_S = 2.0
GRACE_S = 1.5
"""Settling included."""
LONG_PROMPT: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 200}]}
SLOW_PREFILL = {"prefill_tokens_per_s": 20.0}
LIVENESS = head_of("GET", "/liveness")


def stop_flags(settle_s: float, grace_s: float) -> list[str]:
    """How long a stop takes."""
    return [
        *("--shutdown-settle-secs", str(settle_s)),
        *("--shutdown-grace-period-secs", str(grace_s)),
    ]


@pytest.fixture
async def slow_decode(stack: AsyncExitStack) -> tuple[SglangSim, SglangSim]:
    """A pair whose answers take a while: 20 ms a token."""
    return await stack.enter_async_context(sim_pair(decode_step_s=0.02, disconnect_notice_s=60.0))


async def streaming(client: RawClient, n_tokens: int) -> None:
    """Asks for a stream and waits for its first event."""
    body = body_of(CHAT, stream=True, n_tokens=n_tokens)
    await client.send(post_of(CHAT, body))
    await client.until(b"data: ")


async def gone(gateway: GatewayProcess) -> bool:
    """Whether it takes no more connections."""
    return await gateway.status("/liveness") == 0


async def test_settling(slow_decode: tuple[SglangSim, SglangSim]) -> None:
    """Unready at once, and still serving; then closed, and what runs is finished."""
    prefill, decode = slow_decode
    flags = pair_flags(prefill, decode, *stop_flags(SETTLE_S, 20.0))
    async with (
        running(flags) as gateway,
        gateway.connected() as stream,
        gateway.connected() as waiting,
        gateway.connected() as kept,
        gateway.connected() as idle,
    ):
        await streaming(stream, n_tokens=150)  # 3 s
        await waiting.send(post_of(CHAT, body_of(CHAT, n_tokens=20)))  # 0.4 s
        await until(lambda: len(decode.seen) == 2)
        for client in (kept, idle):
            await client.send(LIVENESS)
            assert b"connection: close" not in (await client.answer())[1]
        began_s = time.monotonic()
        gateway.signal(signal.SIGTERM)
        await until(lambda: gateway.child.returncode is None)
        while await gateway.status("/readiness") != 503:
            assert time.monotonic() - began_s < SETTLE_S * 0.8
        assert await gateway.status("/liveness") == 200
        # What runs, and what comes on old connections and new ones, is told to end.
        status, head, _ = await waiting.answer()
        assert (status, b"connection: close\r\n" in head) == (200, True)
        await kept.send(post_of(CHAT, body_of(CHAT)))
        status, head, _ = await kept.answer()
        assert (status, b"connection: close\r\n" in head) == (200, True)
        assert await kept.rest() == b""
        assert time.monotonic() - began_s < SETTLE_S
        while not await gone(gateway):
            assert time.monotonic() - began_s < SETTLE_S + BOUND_S
        assert time.monotonic() - began_s > SETTLE_S * 0.9
        assert await idle.rest() == b""
        rest = await stream.rest()
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert await gateway.exit_code() == 0
    assert decode.aborted == prefill.aborted == []
    assert len(decode.seen) == 3
    assert {line["level"] for line in gateway.logged} == {"info"}


@pytest.mark.parametrize(
    ("number", "settle_s", "least_s"),
    [(signal.SIGTERM, SETTLE_S, SETTLE_S * 0.9), (signal.SIGINT, 60.0, 0.0)],
    ids=["SIGTERM", "SIGINT"],
)
async def test_nothing_runs(number: signal.Signals, settle_s: float, least_s: float) -> None:
    """It ends right after settling; a person's Ctrl-C does not even settle."""
    async with (
        running(stop_flags(settle_s, 300.0), ready="/liveness") as gateway,
        gateway.connected() as idle,
    ):
        await idle.send(LIVENESS)
        await idle.answer()
        began_s = time.monotonic()
        gateway.signal(number)
        assert await gateway.exit_code(10.0) == 0
        assert least_s < time.monotonic() - began_s


def abort_calls(worker: SglangSim) -> list[str]:
    """The ids that a worker was told to abort."""
    return sorted(call["rid"] for call in worker.counters.abort_calls)


class Waiting:
    """Requests at each stage, and their clients."""

    def __init__(self, gateway: GatewayProcess, stack: AsyncExitStack) -> None:
        self._gateway = gateway
        self._stack = stack

    async def client(self, data: bytes) -> RawClient:
        """One that has sent something."""
        client = await self._stack.enter_async_context(self._gateway.connected())
        await client.send(data)
        return client


async def end_of_stream(client: RawClient) -> dict[str, Any]:
    """The error that ends a stream."""
    raw = await client.rest()
    assert raw.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in raw
    last = raw.removesuffix(b"\r\n0\r\n\r\n").rpartition(b"data: ")[2]
    error: dict[str, Any] = json.loads(last)["error"]
    return error


async def refused(client: RawClient) -> str:
    """The code of a 503 that ends its connection and says when to come again."""
    status, head, body = await client.answer()
    assert (status, b"connection: close\r\n" in head) == (503, True)
    assert b"retry-after: 1\r\n" in head
    assert await client.rest() == b""
    code: str = json.loads(body)["error"]["code"]
    return code


@pytest.mark.parametrize("is_forced", [False, True], ids=["grace over", "second signal"])
async def test_rest_is_ended(stack: AsyncExitStack, is_forced: bool) -> None:
    """Streams get an error event, whoever waits gets 503, and both engines are told."""
    prefill, decode = await stack.enter_async_context(
        sim_pair(decode_step_s=0.02, disconnect_notice_s=60.0, prefill=SLOW_PREFILL)
    )
    prefill.faults.add(Fault(kind=FaultKind.HANG, route="/health_generate"))
    grace_s = 60.0 if is_forced else GRACE_S
    flags = pair_flags(prefill, decode, *stop_flags(0.0, grace_s))
    async with running(flags) as gateway:
        waiting = Waiting(gateway, stack)
        # Three words prefill at once, two hundred do not.
        stream = await waiting.client(post_of(CHAT, body_of(CHAT, stream=True, n_tokens=5000)))
        await stream.until(b"data: ")
        # These before requests that the workers see: once they do, all have been accepted. A
        # connection that still waits for that when the listener closes is reset by the system.
        half_head = await waiting.client(b"POST / HTTP/1.1\r\n")
        half_body = await waiting.client(head_of("POST", CHAT, "content-length: 99999") + b"{")
        # A route that looks at nothing but its worker.
        probe = await waiting.client(head_of("GET", "/health_generate"))
        in_prefill = [
            await waiting.client(post_of(CHAT, body_of(CHAT, stream=stream, **LONG_PROMPT)))
            for stream in (False, True)
        ]
        await until(lambda: len(decode.seen) == 3 and prefill.n_rooms == 2)
        least_s = GRACE_S * 0.9
        began_s = time.monotonic()
        gateway.signal(signal.SIGTERM)
        if is_forced:
            while not await gone(gateway):
                pass
            assert decode.aborted == []
            least_s, began_s = 0.0, time.monotonic()
            gateway.signal(signal.SIGTERM)
        assert (await end_of_stream(stream))["code"] == "shutting_down"
        for client in (*in_prefill, half_body, probe):
            assert await refused(client) == "shutting_down"
        assert await half_head.rest() == b""
        assert await gateway.exit_code() == (128 + signal.SIGTERM if is_forced else 0)
        assert least_s < time.monotonic() - began_s < least_s + BOUND_S
    rids = [seen.rid for seen in decode.seen]
    # Prefill's abort may reach its peer before the gateway's own does, so the calls count.
    assert abort_calls(decode) == sorted(rids)
    assert abort_calls(prefill) == sorted(rids[1:])
    (said,) = gateway.lines("requests are ended before their time")
    assert said["requests"] == 5
    levels = {line["level"] for line in gateway.logged}
    assert levels <= {"info", "warning"}
    outcomes = [line.get("outcome") for line in gateway.lines("request") if line["path"] == CHAT]
    assert sorted(map(str, outcomes)) == 4 * ["shutting_down"]


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
async def test_rest_of_vllm_pairs_is_ended(
    stack: AsyncExitStack, model: Path, connector: str
) -> None:
    """Decode is cancelled in mid stream, and a prefill that runs is aborted."""
    prefill = sim("prefill", model, connector, prefill_tokens_per_s=100.0)
    decode = sim("decode", model, connector, decode_step_s=0.02)
    for worker in (prefill, decode):
        await stack.enter_async_context(worker)
    flags = pair_flags(prefill, decode, *stop_flags(0.0, 1.0), "--model-path", str(model))
    async with running(flags) as gateway:
        waiting = Waiting(gateway, stack)
        stream = await waiting.client(post_of(CHAT, body_of(CHAT, stream=True, n_tokens=5000)))
        await stream.until(b"data: ")
        in_prefill = await waiting.client(post_of(CHAT, body_of(CHAT, **LONG_PROMPT)))
        await until(lambda: len(prefill.seen) == 2)
        gateway.signal(signal.SIGTERM)
        assert (await end_of_stream(stream))["code"] == "shutting_down"
        assert await refused(in_prefill) == "shutting_down"
        assert await gateway.exit_code() == 0
    assert decode.seen[0].request_id in decode.cancelled
    assert prefill.seen[1].request_id in prefill.aborted


async def test_stalled_client_does_not_hold_the_end(stack: AsyncExitStack) -> None:
    """Nothing can be said to a client that reads nothing; it is dropped, and its legs aborted."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", endless))
    flags = pair_flags(prefill, decode, *stop_flags(0.0, 1.0))
    async with running(flags) as gateway, gateway.connected(receive_bytes=SMALL_BUFFER) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
        await client.until(b"data: ")
        began_s = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_code(10.0) == 0
        assert time.monotonic() - began_s < 1.0 + BOUND_S
    assert decode.aborted == [decode.seen[0].rid]
    assert {line["level"] for line in gateway.logged} == {"info", "warning"}
