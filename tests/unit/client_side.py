"""One connection of a client whose time goes on when a test says so: its own loop and wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.api.parts import Life
from app.server.client_limits import ClientLimits
from app.server.client_protocol import protocol_of

LIMITS = ClientLimits(head_s=10, idle_s=90, body_stall_s=30, write_stall_s=60, linger_s=5)


class Timer:
    """What ``call_at`` returns."""

    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Its time goes on when the test says so; tasks run in the real loop."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[Timer] = []
        self.n_set = 0
        self.create_task = asyncio.get_running_loop().create_task
        self.call_soon = asyncio.get_running_loop().call_soon

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Timer:
        self.n_set += 1
        self.timers.append(Timer(at_s, callback))
        return self.timers[-1]

    async def wait(self, seconds: float) -> None:
        """Lets time pass; timers go off when they are due."""
        end_s = self.now_s + seconds
        while due := [t for t in self.timers if not t.is_cancelled and t.at_s <= end_s]:
            timer = min(due, key=lambda t: t.at_s)
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer.at_s)
            timer.callback()
            await turn()
        self.now_s = end_s
        await turn()


class Wire(asyncio.Transport):
    """A connection whose client takes what the test lets it take."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.n_waiting = 0
        self.ended = ""
        self._is_read = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.ended in ("", "half")
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.n_waiting

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "half"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "cut"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "cut")

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self._is_read = True

    def is_reading(self) -> bool:
        return self._is_read


async def turn() -> None:
    """Lets tasks run as far as they can."""
    for _ in range(8):
        await asyncio.sleep(0)


class Application:
    """Answers each request once it may; reads the body first if told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_read = asyncio.Event()
        self.got: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.may_read.wait()
        n_bytes = 0
        while scope["method"] == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.got.append(-1)
                return
            n_bytes += len(message["body"])
            if not message["more_body"]:
                break
        self.got.append(n_bytes)
        await self.may_answer.wait()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"ok"})


class Side:
    """One connection under test."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.wire = Wire()
        self.app = Application()
        self.life = Life()
        config = uvicorn.Config(self.app, ws="none", lifespan="off", log_config=None)
        config.load()
        made: Any = protocol_of(LIMITS, self.life)
        self.protocol = made(
            config=config, server_state=ServerState(), app_state={}, _loop=self.loop
        )
        self.protocol.connection_made(self.wire)

    async def receives(self, data: bytes) -> None:
        """The client sends."""
        self.protocol.data_received(data)
        await turn()

    async def ends(self) -> None:
        """The connection is lost."""
        self.protocol.connection_lost(None)
        await turn()

    @property
    def status(self) -> int:
        """Status of the last answer."""
        return int(self.wire.written.rpartition(b"HTTP/1.1 ")[2][:3])
