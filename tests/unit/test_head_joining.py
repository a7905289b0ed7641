"""A response head leaves together with the first piece of body."""

import asyncio

import pytest

from app.server.head_joining import HeadJoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written, each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


@pytest.fixture
async def wire() -> Wire:
    """The connection underneath."""
    return Wire()


@pytest.fixture
async def transport(wire: Wire) -> HeadJoiningTransport:
    """What uvicorn writes to."""
    return HeadJoiningTransport(wire, asyncio.get_running_loop())


async def test_head_and_body_are_one_write(wire: Wire, transport: HeadJoiningTransport) -> None:
    """One system call, one wake-up of the client."""
    transport.write(HEAD)
    transport.write(b"body")
    transport.write(b"more")

    await asyncio.sleep(0)

    assert [HEAD + b"body", b"more"] == wire.written


async def test_a_head_alone_does_not_wait(wire: Wire, transport: HeadJoiningTransport) -> None:
    """A 100 Continue, or a stream that is silent at first."""
    transport.write(HEAD)
    assert [] == wire.written

    await asyncio.sleep(0)
    assert [HEAD] == wire.written

    transport.write(b"body")
    assert [HEAD, b"body"] == wire.written


async def test_closing_sends_the_head_first(wire: Wire, transport: HeadJoiningTransport) -> None:
    """An answer without a body, then the end of the connection."""
    transport.write(HEAD)
    transport.close()

    assert [HEAD] == wire.written
    assert wire.is_closed
    assert transport.is_closing()


async def test_two_answers_stay_apart(wire: Wire, transport: HeadJoiningTransport) -> None:
    """Pipelined requests: nothing is lost and nothing changes its place."""
    transport.write(HEAD)
    transport.write(b"1")
    transport.write(HEAD)
    transport.write(b"2")

    await asyncio.sleep(0)

    assert HEAD + b"1" + HEAD + b"2" == b"".join(wire.written)
