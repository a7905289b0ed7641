"""The pool of threads for long texts: bounded, and safe to leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.errors import CapacityError
from app.sim.small_tokenizer import write_small_tokenizer
from app.text.encoding_pool import EncodingPool
from app.text.tokenizer import Tokenizer

MAX_WAITS = 5000


@pytest.fixture
async def pool() -> AsyncIterator[EncodingPool]:
    """One thread and room for one more job."""
    made = EncodingPool(n_threads=1, max_waiting=1)
    yield made
    made.close()


async def settle(pool: EncodingPool) -> None:
    """Waits until no job is left."""
    for _ in range(MAX_WAITS):
        if not pool.n_jobs:
            return
        await asyncio.sleep(0.001)
    pytest.fail("A job is left.")


async def test_results_and_errors_come_back(pool: EncodingPool) -> None:
    """Both from another thread."""
    assert threading.get_ident() != await pool.run(threading.get_ident)
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    await settle(pool)


async def test_full_queue_refuses(pool: EncodingPool) -> None:
    """One runs, one waits, the third gets 503 and when to come again."""
    release = threading.Event()
    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(pool.run(release.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(CapacityError) as caught:
            await pool.run(release.wait)
        release.set()
    assert [True, True] == [job.result() for job in jobs]
    assert (503, 1) == (caught.value.status, caught.value.retry_after_s)
    await settle(pool)


async def test_cancelled_job_leaves(pool: EncodingPool) -> None:
    """A waiting one never runs; a running one keeps its place until it ends."""
    release, ran = threading.Event(), threading.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(pool.run(release.wait))
        waiting = group.create_task(pool.run(ran.set))
        await asyncio.sleep(0.01)
        waiting.cancel()
        running.cancel()
        await asyncio.sleep(0.01)
        assert running.cancelled()
        assert waiting.cancelled()
        assert pool.n_jobs == 1
        release.set()
    await settle(pool)
    assert not ran.is_set()
    assert await pool.run(lambda: 7) == 7


async def test_closed_pool_takes_nothing() -> None:
    """And counts nothing."""
    pool = EncodingPool(n_threads=1)
    pool.close()
    with pytest.raises(RuntimeError):
        await pool.run(lambda: 1)
    assert pool.n_jobs == 0


async def test_loop_goes_on_while_a_long_text_is_encoded(tmp_path: Path) -> None:
    """The interpreter lock is free meanwhile: the loop never waits for half of the work."""
    write_small_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    text = "The gateway takes a request and relays the answer. " * 20_000
    longest_s = 0.0
    start_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            job = group.create_task(tokenizer.encode_soon(text, False))
            while not job.done():
                before_s = time.perf_counter()
                await asyncio.sleep(0.001)
                longest_s = max(longest_s, time.perf_counter() - before_s)
        assert text == tokenizer.decode(job.result(), False)
        assert longest_s < (time.perf_counter() - start_s) / 2
    finally:
        tokenizer.pool.close()
