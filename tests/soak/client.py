"""A client that does what it likes with its connection, and tells what became of its request."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.soak.asked import GENERATE, Asked, Manner

LIMIT_S = 60.0
"""A request that has no end by then is lost."""
_MARK = re.compile(r"Simulated answer (\S{8})")


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    LEFT = "left by the client"
    REFUSED = "refused cleanly"
    LOST = "lost"


@dataclass(slots=True)
class Told:
    """What a client got.

    Attributes:
        began_s: Of ``time.monotonic``.
        status: 0 before a head came.
        code: ``error.code``, in whatever form the error came.
        leg: ``error.leg``.
        is_crossed: An answer, or the part that came of it, has somebody else's mark.
        why: Of a lost one: what was wrong.
    """

    asked: Asked
    began_s: float
    end: End = End.LOST
    ended_s: float = 0.0
    status: int = 0
    code: str = ""
    leg: str | None = None
    message: str = ""
    is_crossed: bool = False
    why: str = ""
    texts: dict[int, str] = field(default_factory=dict)


class _Left(Exception):
    """The client has done what it wanted."""


class Client:
    """Sends one request after the other.

    Args:
        port: The gateway's, on 127.0.0.1.
        limit_s: How long an answer may take altogether.
    """

    def __init__(self, port: int, limit_s: float = LIMIT_S) -> None:
        self._port = port
        self._limit_s = limit_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, asked: Asked) -> Told:
        """Sends a request and reads what comes, as far as this client cares."""
        told = Told(asked, time.monotonic())
        is_reusable = False
        try:
            async with asyncio.timeout(self._limit_s):
                await self._send(asked)
                is_reusable = await self._read(asked, told)
        except _Left:
            told.end = End.LEFT
        except TimeoutError:
            told.end, told.why = End.LOST, f"no end within {self._limit_s:g} s"
        except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
            told.end, told.why = End.LOST, f"{type(error).__name__}: {error}"
        told.ended_s = time.monotonic()
        told.is_crossed = _is_crossed(told)
        told.texts.clear()
        if not is_reusable:
            self.close()
        return told

    def close(self) -> None:
        """Drops the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _send(self, asked: Asked) -> None:
        if self._writer is None or asked.manner is Manner.READS_SLOWLY:
            self.close()
            await self._connect(is_slow=asked.manner is Manner.READS_SLOWLY)
        assert self._writer is not None
        head = (
            f"POST {asked.path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            f"x-request-id: {asked.nonce}\r\ncontent-length: {len(asked.body)}\r\n\r\n"
        ).encode()
        if asked.manner is Manner.LEAVES_SENDING:
            self._writer.write(head + asked.body[: len(asked.body) // 2])
            await asyncio.sleep(asked.after)
            raise _Left
        self._writer.write(head + asked.body)
        await self._writer.drain()
        if asked.manner is Manner.LEAVES_WAITING:
            await asyncio.sleep(asked.after)
            raise _Left

    async def _connect(self, *, is_slow: bool) -> None:
        opened = socket.socket()
        opened.setblocking(False)
        if is_slow:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", self._port))
        limit = 512 if is_slow else 256 * 1024
        self._reader, self._writer = await asyncio.open_connection(sock=opened, limit=limit)

    async def _read(self, asked: Asked, told: Told) -> bool:
        """Reads an answer; returns whether another may follow on the connection."""
        reader = self._reader
        assert reader is not None
        line = await reader.readline()
        told.status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := await reader.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if "content-length" in headers:
            data = await reader.readexactly(int(headers["content-length"]))
            _judge_whole(asked, told, json.loads(data))
        else:
            assert headers.get("transfer-encoding") == "chunked", headers
            await self._read_events(reader, asked, told)
        return headers.get("connection") != "close"

    async def _read_events(self, reader: asyncio.StreamReader, asked: Asked, told: Told) -> None:
        n_events, rest, is_done = 0, b"", False
        while size := int(await reader.readline(), 16):
            rest += await reader.readexactly(size)
            await reader.readexactly(2)
            *whole, rest = rest.split(b"\n\n")
            for event in whole:
                if is_done or told.code:
                    raise ValueError(f"an event after the end: {event[:100]!r}")
                is_done = _judge_event(asked, told, event)
                n_events += 1
            if asked.manner is Manner.LEAVES_READING and n_events >= asked.after:
                raise _Left
            if asked.manner is Manner.READS_SLOWLY:
                await asyncio.sleep(0.02)
        await reader.readexactly(2)
        if rest or not (is_done or told.code):
            raise EOFError(f"the stream ended after {n_events} events without [DONE] or an error")
        if is_done:
            told.end = End.ANSWERED


def _judge_event(asked: Asked, told: Told, event: bytes) -> bool:
    """Takes one event in; returns whether it was [DONE]."""
    if event.startswith(b":"):
        return False
    if not event.startswith(b"data: "):
        raise ValueError(f"no event: {event[:100]!r}")
    if event == b"data: [DONE]":
        return True
    value = json.loads(event[6:])
    if "error" in value:
        _take_error(told, value["error"])
    elif asked.path == GENERATE:
        # Each event has the whole text so far.
        told.texts[value.get("index") or 0] = value["text"]
    else:
        for choice in value["choices"]:
            said = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            at = choice["index"]
            told.texts[at] = told.texts.get(at, "") + said
    return False


def _judge_whole(asked: Asked, told: Told, value: Any) -> None:
    if told.status != 200:
        _take_error(told, value["error"])
        return
    if asked.path == GENERATE:
        told.texts[0] = value["text"]
    else:
        for choice in value["choices"]:
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            told.texts[choice["index"]] = text
    told.end = End.ANSWERED


def _take_error(told: Told, error: dict[str, Any]) -> None:
    told.code, told.leg = error["code"], error.get("leg")
    told.message = error["message"][:200]
    told.end = End.REFUSED


def _is_crossed(told: Told) -> bool:
    """A wrong mark, also in the part of an answer; a whole answer must have all of its marks."""
    marks = told.asked.marks
    for at, text in told.texts.items():
        found = _MARK.match(text)
        if at >= len(marks) or (found is not None and found[1] != marks[at]):
            told.why = f"choice {at} says {text[:60]!r}"
            return True
        if found is None and told.end is End.ANSWERED:
            told.why = f"choice {at} says only {text[:60]!r}"
            return True
    return told.end is End.ANSWERED and len(told.texts) != len(marks)
