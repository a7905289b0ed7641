"""Workers that hang up in the middle, on real sockets."""

from __future__ import annotations

from typing import Any

import pytest

from app.upstream.failures import BrokenResponse
from app.upstream.http1 import Exchange

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


async def run(exchange: Exchange) -> bytes:
    """All of the exchange, closed in the end whatever happens."""
    try:
        await exchange.head()
        return await exchange.read(1000)
    finally:
        exchange.close()


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", HEAD + b"abc"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_answer_is_broken(serve: Any, pool_for: Any, data: bytes, how: str) -> None:
    """EOF and RST before the head, in it and in the body."""

    async def script(call: Any) -> None:
        await call.body()
        await call.write(data)
        getattr(call, how)()

    async with serve(script) as worker, pool_for(worker) as pool:
        with pytest.raises(BrokenResponse, match="the connection before its response"):
            await run(pool.exchange(b"POST", b"/", [], b"{}", silence_timeout_s=5))


async def test_a_worker_that_resets_while_it_is_written_to_is_broken(
    serve: Any, pool_for: Any
) -> None:
    """A request larger than the socket buffers, to a worker that hangs up."""

    async def script(call: Any) -> None:
        call.reset()

    async with serve(script) as worker, pool_for(worker) as pool:
        exchange = pool.exchange(b"POST", b"/", [], b"x" * 20_000_000, silence_timeout_s=5)
        with pytest.raises(BrokenResponse):
            await run(exchange)
        assert exchange.sent
