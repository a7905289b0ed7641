"""Threads for long texts, so that the event loop is never held up by one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from app.errors import CapacityError

Result = TypeVar("Result")

_MAX_THREADS = 4
_RETRY_AFTER_S = 1


class EncodingPool:
    """A few threads with a bounded queue.

    Threads are enough for tokenizing: ``encode_batch_fast`` of tokenizers 0.23
    lets go of the interpreter lock (a 3.3 MB text: 2.9 s in a thread, the loop
    never waited longer than 32 ms). Its ``encode`` does not (5.2 s, all of it
    a standstill), so ``Tokenizer`` never calls that one. Rendering a template
    holds the lock; a thread then only shares it in slices of 5 ms.

    Args:
        n_threads: Jobs at a time; as many as cores, at most 4, when left out.
        max_waiting: Jobs that may wait for a thread; one more is refused.
        work: What the jobs are, for that refusal.
    """

    def __init__(
        self,
        *,
        n_threads: int | None = None,
        max_waiting: int = 256,
        work: str = "long prompts wait to be tokenized",
    ) -> None:
        self._n_threads = n_threads or min(_MAX_THREADS, os.cpu_count() or 1)
        self._max_jobs = self._n_threads + max_waiting
        self._work = work
        self._n_jobs = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="text")

    @property
    def n_jobs(self) -> int:
        """Jobs that wait or run; also those whose request is gone and that still run."""
        return self._n_jobs

    async def run(self, job: Callable[[], Result]) -> Result:
        """Runs a job in a thread and returns its result or raises its error.

        When the caller is cancelled a job that waits is dropped; one that runs
        ends in its thread, unheard, and keeps its place until then.

        Raises:
            CapacityError: The queue is full.
        """
        with self._lock:
            if self._n_jobs >= self._max_jobs:
                raise CapacityError(
                    f"Too many {self._work}; try again.",
                    code="tokenizer_busy",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._n_jobs += 1
        try:
            future = self._threads.submit(job)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drops what waits; what runs ends by itself and is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: Future[Result] | None = None) -> None:
        with self._lock:
            self._n_jobs -= 1
