"""Where the two legs of a pair meet: an HTTP server on prefill's bootstrap port.

Decode asks for the KV of a room by ``POST /kv/<room>`` and is answered when
prefill has computed and sent it. The connection is the pair's life line:
whoever loses it knows that the other one died. An ``abort`` written on it
by decode says that the request, not the worker, is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

KILLED = "killed"
"""Cancel message of a worker that dies: it says good-bye to nobody."""


class PeerLost(ConnectionError):
    """The bootstrap connection ended before the KV came."""


class Room:
    """One meeting of a prefill with a decode leg."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.arrived = asyncio.Event()
        """Decode is here."""
        self.settled = asyncio.Event()
        self.answer: dict[str, Any] | None = None
        self.on_left: Callable[[bool], None] | None = None
        """Called with True when decode said abort, with False when it just went."""

    def settle(self, answer: dict[str, Any]) -> None:
        """Give decode its KV (or the reason why there is none), once."""
        if self.answer is None:
            self.answer = answer
            self.settled.set()

    def leave(self, was_abort: bool) -> None:
        """Decode went before it was answered."""
        if not self.settled.is_set():
            self.settled.set()
            if self.on_left is not None:
                self.on_left(was_abort)


class Rendezvous:
    """The bootstrap server of one prefill worker."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self.rooms: dict[int, Room] = {}
        self.port = 0
        self._describe = describe
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def room(self, number: int) -> Room:
        """The room of this number, made by whichever leg comes first."""
        return self.rooms.setdefault(number, Room(number))

    def forget(self, number: int) -> None:
        """Prefill is through with a room."""
        self.rooms.pop(number, None)

    async def start(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        self._server = await asyncio.start_server(self._serve, host, port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Drop the listener and every connection; the rooms are lost."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        self.rooms.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target = head.split(b" ", 2)[:2]
                status, body = await self._answer(method, target, reader)
                writer.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%s" % (status, len(body), body)
                )
                await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, method: bytes, target: bytes, reader: asyncio.StreamReader
    ) -> tuple[bytes, bytes]:
        if target == b"/health":
            return b"200 OK", b"OK"
        if target.startswith(b"/route"):
            return b"200 OK", json.dumps(self._describe()).encode()
        if method != b"POST" or not target.startswith(b"/kv/"):
            return b"404 Not Found", b"404: Not Found"
        room = self.room(int(target[4:]))
        room.arrived.set()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(reader, room))
            await room.settled.wait()
            watch.cancel()
        if room.answer is None:
            self.forget(room.number)
            raise PeerLost
        return b"200 OK", json.dumps(room.answer).encode()


async def _watch(reader: asyncio.StreamReader, room: Room) -> None:
    said = b""
    with contextlib.suppress(OSError):
        said = await reader.read(64)
    room.leave(was_abort=bool(said))


async def fetch_kv(host: str, port: int, room: int) -> dict[str, Any]:
    """Decode's side: meet prefill and wait for the KV of a room.

    Cancelling it tells prefill that the request was aborted.

    Raises:
        OSError: Nobody listens there.
        PeerLost: The connection broke, or what answered is no bootstrap server.
    """
    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    try:
        writer.write(b"POST /kv/%d HTTP/1.1\r\nhost: sim\r\n\r\n" % room)
        try:
            raw = await reader.read()
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (KILLED,):
                writer.write(b"abort")
            raise
        except OSError as error:
            raise PeerLost(str(error)) from error
        head, _, body = raw.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise PeerLost("the connection ended without an answer")
        answer: dict[str, Any] = json.loads(body)
        return answer
    finally:
        writer.close()
