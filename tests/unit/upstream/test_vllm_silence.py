"""The clock for silence, with real but short waits."""

from __future__ import annotations

import asyncio

from app.upstream.vllm_silence import SilenceClock


async def test_it_strikes_once_after_the_limit() -> None:
    """And not before."""
    struck: list[float] = []
    loop = asyncio.get_running_loop()
    clock = SilenceClock(lambda: struck.append(loop.time()))
    began_s = loop.time()
    clock.start(0.05)
    await asyncio.sleep(0.3)
    assert len(struck) == 1
    # The clock of uvloop is a millisecond coarse.
    assert 0.048 <= struck[0] - began_s < 0.3
    assert clock.has_struck


async def test_messages_in_time_keep_it_quiet() -> None:
    """Ten waits of half the limit each; then the eleventh is too long."""
    struck: list[int] = []
    clock = SilenceClock(lambda: struck.append(1))
    for _ in range(10):
        clock.start(0.1)
        await asyncio.sleep(0.02)
        clock.rest()
    assert not struck
    clock.start(0.1)
    await asyncio.sleep(0.25)
    assert struck == [1]


async def test_a_slow_reader_is_no_silence() -> None:
    """Between two waits the clock stands still."""
    struck: list[int] = []
    clock = SilenceClock(lambda: struck.append(1))
    clock.start(0.03)
    clock.rest()
    await asyncio.sleep(0.08)
    clock.start(0.03)
    clock.rest()
    await asyncio.sleep(0.05)
    assert not clock.has_struck


async def test_a_shorter_limit_after_a_long_one() -> None:
    """The first message may take long, a gap may not."""
    struck: list[int] = []
    clock = SilenceClock(lambda: struck.append(1))
    clock.start(10.0)
    clock.rest()
    clock.start(0.03)
    await asyncio.sleep(0.08)
    assert struck == [1]


async def test_no_limit_and_an_end() -> None:
    """None waits for ever; a stopped clock holds no timer."""
    struck: list[int] = []
    clock = SilenceClock(lambda: struck.append(1))
    clock.start(None)
    await asyncio.sleep(0.02)
    clock.start(0.02)
    clock.stop()
    await asyncio.sleep(0.05)
    assert not struck


async def test_a_wait_shorter_than_the_loop_counts() -> None:
    """Uvloop's handle of such a timer does not tell when it is due; the next wait asks for it."""
    struck: list[int] = []
    clock = SilenceClock(lambda: struck.append(1))
    clock.start(0.0002)
    clock.start(0.0001)
    await asyncio.sleep(0.05)
    assert struck == [1]
