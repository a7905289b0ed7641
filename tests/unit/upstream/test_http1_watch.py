"""Limits of an exchange that change on the way, with a clock that is turned by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.upstream.failures import SilenceTimeout

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"1\r\nx\r\n"


class Sweeps:
    """Sweeps the pool at times of a test's choosing."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench

    def at(self, now_s: float) -> None:
        """One sweep at so many seconds after the begin."""
        self._bench.clock.now_s = 100.0 + now_s
        self._bench.pool._sweep()


@pytest.fixture
def sweeps(bench: Any) -> Sweeps:
    """The sweeps of the bench's pool."""
    return Sweeps(bench)


async def failure_of(exchange: Any) -> SilenceTimeout:
    """What ended the exchange."""
    with pytest.raises(SilenceTimeout) as caught:
        await exchange.chunk()
    exchange.close()
    return caught.value


async def test_bytes_prolong_a_silence(bench: Any, sweeps: Sweeps) -> None:
    """Ten seconds of silence count from the sweep that saw the last bytes."""
    exchange = await bench.begun(HEAD, silence_timeout_s=10.0)
    for now_s in (0.0, 9.0, 18.0, 27.0):
        bench.connection.data_received(PIECE)
        sweeps.at(now_s)
        assert await exchange.chunk() == b"x"
    sweeps.at(36.9)
    assert bench.connection.failure is None
    sweeps.at(37.0)
    assert (await failure_of(exchange)).phase == "body"


async def test_bytes_do_not_prolong_a_total(bench: Any, sweeps: Sweeps) -> None:
    """It ends ten seconds after it was set, in the phase of an answer that has not come."""
    exchange = await bench.begun(HEAD, silence_timeout_s=math.inf)
    sweeps.at(1000.0)
    exchange.limit(10.0, is_total=True)
    sweeps.at(1000.5)
    for now_s in (1003.0, 1006.0, 1010.4):
        bench.connection.data_received(PIECE)
        sweeps.at(now_s)
        assert await exchange.chunk() == b"x"
    sweeps.at(1010.5)
    assert (await failure_of(exchange)).phase == "head"


async def test_a_new_limit_starts_anew(bench: Any, sweeps: Sweeps) -> None:
    """What was waited before does not count, and the old limit is gone."""
    exchange = await bench.begun(HEAD, silence_timeout_s=10.0)
    exchange.limit(10.0, is_total=True)
    sweeps.at(0.0)
    sweeps.at(9.9)
    exchange.limit(20.0, is_total=False)
    sweeps.at(10.0)
    sweeps.at(29.9)
    assert bench.connection.failure is None
    sweeps.at(30.0)
    assert (await failure_of(exchange)).phase == "body"


async def test_no_limit(bench: Any, sweeps: Sweeps) -> None:
    """Nothing is too long."""
    exchange = await bench.begun(HEAD, silence_timeout_s=math.inf)
    for now_s in (0.0, 1e6, 2e6):
        sweeps.at(now_s)
    assert bench.connection.failure is None
    exchange.close()


async def test_a_short_limit_is_looked_at_more_often(bench: Any) -> None:
    """The pool sweeps a quarter of the shortest limit, also of one that comes later."""
    exchange = await bench.begun(HEAD, silence_timeout_s=math.inf)
    assert bench.pool._sweep_s == 1.0
    exchange.limit(0.2, is_total=True)
    assert pytest.approx(0.05) == bench.pool._sweep_s
    exchange.limit(100.0, is_total=False)
    assert pytest.approx(0.05) == bench.pool._sweep_s
    exchange.close()
