"""Processes that encode long prompts: bounded, replaced when they break, never waited for at start.

Encoding half a megabyte takes 0.4 s of one core. In a thread it lets go of the interpreter's lock
for most of that, and still held up the event loop for 22 ms at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from app.errors import CapacityError
from app.text.child_process import ChildGone, ChildProcess
from app.text.encoding_child import asked, split
from app.text.encoding_pool import EncodingPool

_CHILD = "app.text.encoding_child"
_MAX_ANSWER_BYTES = 1 << 32
_RETRY_AFTER_S = 1
_MAX_TRIES = 2
_MAX_WAITING = 256
_START_AGAIN_S = 10.0


class EncodingChildren:
    """The processes of one tokenizer. They start with the first long prompt.

    While one is starting, or where none can be started, prompts are encoded in a thread.

    Args:
        folder: Of the tokenizer's files; read when a process starts.
        n_processes: How many at most, and how many prompts are encoded at a time.
        make: Starts one; another one in tests.
    """

    def __init__(
        self, folder: Path, n_processes: int, make: Callable[[Path], ChildProcess] | None = None
    ) -> None:
        self._folder = folder
        self._n_processes = n_processes
        self._make = make or _start
        self._lock = threading.Lock()
        self._idle: list[ChildProcess] = []
        self._all: set[ChildProcess] = set()
        self._n_starting = 0
        self._not_before_s = 0.0
        self._is_closed = False
        self._pool = EncodingPool(
            n_threads=n_processes,
            max_waiting=_MAX_WAITING,
            work="long prompts wait to be tokenized",
        )

    @property
    def pids(self) -> list[int]:
        """The processes that are ready."""
        with self._lock:
            return [child.pid for child in self._all]

    @property
    def n_jobs(self) -> int:
        """Prompts that wait or are encoded; also those whose request is gone."""
        return self._pool.n_jobs

    async def encode(
        self, parts: Sequence[str], here: Callable[[], Sequence[bytes]]
    ) -> Sequence[bytes]:
        """Encodes parts of a prompt in a process.

        Args:
            parts: The parts.
            here: Does the same in this process, for as long as there is no other.

        Raises:
            InvalidRequest: A part holds half a surrogate pair.
            CapacityError: Too many prompts wait, or two processes have ended over this one.
        """
        return await self._pool.run(partial(self._ask, parts, here))

    def close(self) -> None:
        """Ends the processes; who waits for one meets its end."""
        self._pool.close()
        with self._lock:
            self._is_closed = True
            children, self._all = self._all, set()
            self._idle.clear()
        for child in children:
            child.end()

    def _ask(self, parts: Sequence[str], here: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
        data = asked(parts)
        for _ in range(_MAX_TRIES):
            child = self._take()
            if child is None:
                return here()
            try:
                found = split(child.ask(data))
            except ChildGone:
                self._drop(child)
                continue
            with self._lock:
                self._idle.append(child)
            return found
        raise CapacityError(
            "The process that tokenizes long prompts has ended twice over this one.",
            code="tokenizer_broken",
            retry_after_s=_RETRY_AFTER_S,
        )

    def _take(self) -> ChildProcess | None:
        """One that is free; if there is none, another is started for later prompts."""
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.is_alive:
                    return child
                self._all.discard(child)
                child.end()
            is_full = len(self._all) + self._n_starting >= self._n_processes
            if self._is_closed or is_full or time.monotonic() < self._not_before_s:
                return None
            self._n_starting += 1
        threading.Thread(target=self._add, name="text-starter", daemon=True).start()
        return None

    def _add(self) -> None:
        child = None
        try:
            # It cannot be started, or the files are gone: prompts go on in threads.
            with suppress(ChildGone, OSError):
                child = self._make(self._folder)
                child.expect_ready()
                with self._lock:
                    if not self._is_closed:
                        self._all.add(child)
                        self._idle.append(child)
                        return
            self._not_before_s = time.monotonic() + _START_AGAIN_S
            if child is not None:
                child.end()
        finally:
            with self._lock:
                self._n_starting -= 1

    def _drop(self, child: ChildProcess) -> None:
        with self._lock:
            self._all.discard(child)
        child.end()


def _start(folder: Path) -> ChildProcess:
    return ChildProcess(_CHILD, [str(folder)], _MAX_ANSWER_BYTES)
