"""A real ``redis-server`` of a test's own: empty when it starts, and gone with what it held."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.flow.process import free_port

PASSWORD = "correct-horse"
START_S = 10.0


class RedisServer:
    """One on a port of its own.

    Attributes:
        port: Where it listens, whenever it runs.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._child: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """With the password."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Starts it, with nothing in it."""
        program = shutil.which("redis-server")
        assert program, "the Debian package redis-server is missing"
        words = ("--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD)
        self._child = await asyncio.create_subprocess_exec(
            *(program, *words, "--save", "", "--appendonly", "no", "--daemonize", "no"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    assert self._child.returncode is None
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        """``kill -9``; harmless if it is not there."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


@asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """Runs one."""
    server = RedisServer()
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
