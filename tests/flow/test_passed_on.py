"""Events that come one by one are passed on past the request's task, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.server.client_cycle import ClientCycle
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, post_of
from tests.flow.scripted import SSE, Script, ScriptedWorker, whole

DONE = b"data: [DONE]\n\n"
PAUSE_S = 0.03


def event(text: str, **more: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": text}}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


class Pushes:
    """Notes what went past the request's task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[bytes] = []
        really = ClientCycle.push

        def push(cycle: ClientCycle, body: bytes) -> bool:
            is_written = really(cycle, body)
            if is_written:
                self.pieces.append(body)
            return is_written

        monkeypatch.setattr(ClientCycle, "push", push)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Pushes:
    """Looks at the client's side."""
    return Pushes(monkeypatch)


class Spaced:
    """Decode's script: pieces with pauses between them, then an end of some kind."""

    def __init__(self, *pieces: bytes, is_cut: bool = False) -> None:
        self.pieces = pieces
        self.is_cut = is_cut

    async def __call__(self, exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, SSE)
        for piece in self.pieces:
            await exchange.write(piece)
            await asyncio.sleep(PAUSE_S)
        if self.is_cut:
            await exchange.watch()
        else:
            await exchange.write(b"", is_last=True)


async def fleet_of(stack: AsyncExitStack, decode_script: Script) -> tuple[Fleet, ScriptedWorker]:
    """A pair whose decode follows the script."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", decode_script))
    return await stack.enter_async_context(serving([prefill], [decode])), decode


async def streamed(fleet: Fleet, **more: Any) -> bytes:
    """The body that the client gets, its chunks joined."""
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True, **more))
    assert got.status == 200
    return got.raw


async def test_spaced_events(stack: AsyncExitStack, pushes: Pushes) -> None:
    """All but the first event and the last one; the bytes are the worker's own."""
    events = [event(f"w{i}") for i in range(6)]
    fleet, _ = await fleet_of(stack, Spaced(*events, DONE))
    assert await streamed(fleet) == b"".join(events) + DONE
    assert pushes.pieces == events[1:]


async def test_what_needs_thought_goes_the_whole_way(stack: AsyncExitStack, pushes: Pushes) -> None:
    """Halves of events, words of failures that are none, and ``[DONE]`` keep their place."""
    one, two = event("half"), event("two")
    pieces = (event("a"), one[:20], one[20:] + two[:9], two[9:], event('"error"'), event("[DONE]"))
    fleet, _ = await fleet_of(stack, Spaced(*pieces, event("z"), DONE))
    assert await streamed(fleet) == b"".join(pieces) + event("z") + DONE
    assert pushes.pieces == [event('"error"'), event("z")]


async def test_usage_is_still_completed(stack: AsyncExitStack, pushes: Pushes) -> None:
    """Plain events pass; the one with counts is looked at."""
    counts = event("", usage={"prompt_tokens": 3, "completion_tokens": 2})
    events = [event(f"w{i}") for i in range(3)]
    fleet, _ = await fleet_of(stack, Spaced(*events, counts, DONE))
    answer = await streamed(fleet, stream_options={"include_usage": True})
    assert answer == b"".join(events) + counts + DONE
    assert pushes.pieces == events[1:]


@pytest.mark.parametrize("fault", ["abort", "no done", "half"])
async def test_failure_after_passed_events(
    stack: AsyncExitStack, pushes: Pushes, fault: str
) -> None:
    """One error event behind all that was passed on, and no ``[DONE]``."""
    last = {
        "abort": b'data: {"choices":[{"index":0,"finish_reason":"abort"}]}\n\n',
        "no done": b"",
        "half": b'data: {"choices":[',
    }[fault]
    events = [event(f"w{i}") for i in range(4)]
    fleet, _ = await fleet_of(stack, Spaced(*events, *([last] if last else [])))
    answer = await streamed(fleet)
    assert answer.startswith(b"".join(events))
    rest = answer[len(b"".join(events)) :]
    assert rest.count(b"data: ") == 1
    assert json.loads(rest.strip().removeprefix(b"data: "))["error"]["leg"] == "decode"
    assert pushes.pieces == events[1:]


async def test_client_leaves_between_passed_events(stack: AsyncExitStack, pushes: Pushes) -> None:
    """The legs end although the request's task has not run since the first event."""
    events = [event(f"w{i}") for i in range(4)]
    fleet, decode = await fleet_of(stack, Spaced(*events, is_cut=True))
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
        await client.until(events[3])
        client.leave()
        await until(lambda: decode.aborted == [decode.seen[0].rid])
    await until(lambda: decode.n_active == 0)
    assert pushes.pieces == events[1:]


class Flood:
    """Decode's script: large events for as long as somebody takes them."""

    def __init__(self) -> None:
        self.n_written = 0

    async def __call__(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Streams until the gateway has left."""
        await exchange.start(200, SSE)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(exchange.watch())
            while not watching.done():
                await exchange.write(event("x" * 60_000))
                self.n_written += 1
                await asyncio.sleep(0)


async def test_client_that_does_not_read_holds_the_worker_up(
    stack: AsyncExitStack, pushes: Pushes
) -> None:
    """Nothing piles up in the gateway: the worker cannot write any more."""
    flood = Flood()
    fleet, decode = await fleet_of(stack, flood)
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
        n_before = -1
        async with asyncio.timeout(20):
            while flood.n_written != n_before or n_before == 0:
                n_before = flood.n_written
                await asyncio.sleep(0.5)
        assert pushes.pieces
        client.leave()
        await until(lambda: decode.n_active == 0)
