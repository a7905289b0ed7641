"""Files that may change while the gateway runs: noticed, and read once they are whole."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from structlog.typing import FilteringBoundLogger

POLL_S = 2.0

Mark = tuple[int, int, int, int] | None
"""What tells one content of a file from another; None: there is no file."""


def mark_of(stat: os.stat_result) -> Mark:
    """What tells this content from another."""
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def mark_at(path: str) -> Mark:
    """Returns what changes with a file's content; a link's target is what counts (Kubernetes)."""
    try:
        return mark_of(Path(path).stat())
    except OSError:
        return None


def marks_at(paths: Sequence[str]) -> tuple[Mark, ...]:
    """The marks of several files."""
    return tuple(mark_at(path) for path in paths)


class FollowedFiles(ABC):
    """Files that are taken again when they change.

    They are taken once they have stayed the same for one poll, so that what is being written is
    not read half; :meth:`wake` takes them at once.

    Args:
        paths: The files; they are taken together.
        marks: Of what was read at start.
        poll_s: Time between two looks at them.
    """

    def __init__(
        self, paths: Sequence[str], marks: tuple[Mark, ...], *, poll_s: float = POLL_S
    ) -> None:
        self.paths = tuple(paths)
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._taken = marks

    def wake(self) -> None:
        """Has the files read now, changed or not."""
        self._woken.set()

    @abstractmethod
    async def take(self, log: FilteringBoundLogger) -> None:
        """Reads the files and uses them, or says why not and changes nothing."""

    async def watch(self, log: FilteringBoundLogger) -> None:
        """Runs until it is cancelled.

        Args:
            log: Told of every change and of every file that could not be used.
        """
        changed = self._taken
        while True:
            is_asked = await self._wait()
            marks = await asyncio.to_thread(marks_at, self.paths)
            if is_asked or (marks == changed and marks != self._taken):
                self._taken = marks
                await self.take(log)
            changed = marks

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True
