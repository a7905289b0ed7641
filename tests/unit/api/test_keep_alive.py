"""When a silent stream gets a comment, look by look, and what it may not come in between."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from app.api.keep_alive import COMMENT, KeepAlive, Silence
from app.api.relay import Relay
from app.dispatch.reply import Reply
from app.errors import ShuttingDown
from app.observability.notes import Notes

LONG_S = 1e6
"""No timer goes off by itself."""


def looking() -> list[Any]:
    """The timers of this loop that look for a silence."""
    loop: Any = asyncio.get_running_loop()
    return [h for h in loop._scheduled if not h.cancelled() and "Silence" in repr(h._callback)]


class Stream:
    """A stream whose count and comments the test sees."""

    def __init__(self, request: asyncio.TaskGroup) -> None:
        self.n_sent = 0
        self.n_said = 0
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.silence = Silence(LONG_S, lambda: self.n_sent, self.say, request)

    async def say(self) -> None:
        await self.may_speak.wait()
        self.n_said += 1

    async def looks(self, n: int) -> None:
        """Time passes, a quarter of the interval each."""
        for _ in range(n):
            self.silence._handle.cancel()
            self.silence._look()
            await asyncio.sleep(0)


async def test_a_comment_for_each_interval_of_silence() -> None:
    """Four looks that saw nothing new."""
    async with asyncio.TaskGroup() as request:
        stream = Stream(request)
        await stream.looks(3)
        assert stream.n_said == 0
        await stream.looks(1)
        assert stream.n_said == 1
        await stream.looks(8)
        assert stream.n_said == 3
        stream.silence.end()
    assert looking() == []


async def test_every_event_begins_anew() -> None:
    """However many looks saw nothing before it."""
    async with asyncio.TaskGroup() as request:
        stream = Stream(request)
        for _ in range(10):
            await stream.looks(3)
            stream.n_sent += 1
            await stream.looks(1)
        assert stream.n_said == 0
        await stream.looks(4)
        assert stream.n_said == 1
        stream.silence.end()


async def test_one_comment_waits_for_a_client_that_does_not_read() -> None:
    """And none is left behind the end."""
    async with asyncio.TaskGroup() as request:
        stream = Stream(request)
        stream.may_speak.clear()
        await stream.looks(100)
        assert len(asyncio.all_tasks()) == 2
        stream.silence.end()
        stream.may_speak.set()
    assert stream.n_said == 0


async def test_a_request_that_ends_gets_none() -> None:
    """Its task group takes no more tasks."""
    async with asyncio.TaskGroup() as request:
        stream = Stream(request)
    await stream.looks(5)
    assert stream.n_said == 0
    stream.silence.end()


class Client:
    """Takes messages when the test lets it."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.may_take = asyncio.Event()
        self.may_take.set()

    async def send(self, message: Message) -> None:
        await self.may_take.wait()
        self.got.append(message)


async def events(client: Client, relay: Relay) -> Any:
    """One event; then the client stops reading, a comment comes up, and the stream ends."""
    yield b"data: 1\n\n"
    client.may_take.clear()
    assert relay._silence is not None
    relay._silence._speak()
    await asyncio.sleep(0)


@pytest.mark.parametrize("is_failing", [False, True])
async def test_nothing_comes_behind_the_end(is_failing: bool) -> None:
    """A comment that could not be sent before it is taken back."""
    client = Client()
    relay = Relay(client.send, KeepAlive(LONG_S), Notes())
    async with asyncio.TaskGroup() as request:

        async def serve() -> None:
            chunks = events(client, relay)
            if is_failing:
                relay.watch(request)
                relay.has_started = True
                async for _ in chunks:
                    pass
                await relay.fail(ShuttingDown("The end."))
            else:
                await relay.run(Reply(200, [], chunks, is_stream=True), request)

        serving = request.create_task(serve())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not client.may_take.is_set()
        client.may_take.set()
        await serving
    assert client.got[-1]["more_body"] is False
    assert COMMENT not in [message.get("body") for message in client.got]
    assert looking() == []
