"""The file of keys, read again while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from app.middleware.key_ring import KeyRing
from app.middleware.keys import Key, KeyFault, read_key_file

POLL_S = 2.0
MAX_FILE_BYTES = 16 * 1024 * 1024

Mark = tuple[int, int, int, int] | None
"""What tells one content of a file from another; None: there is no file."""


def load_key_file(path: str) -> tuple[tuple[Key, ...], Mark]:
    """Reads a file of keys; with the mark of what was read.

    Raises:
        KeyFault: It cannot be read or used.
    """
    try:
        with Path(path).open("rb") as file:
            mark = _mark_of(os.fstat(file.fileno()))
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise KeyFault(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeyFault("it is not UTF-8") from None
    if len(data) > MAX_FILE_BYTES:
        raise KeyFault(f"it has more than {MAX_FILE_BYTES} bytes")
    return read_key_file(text), mark


def _mark_of(stat: os.stat_result) -> Mark:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def _mark_at(path: str) -> Mark:
    """Returns what changes with a file's content; a link's target is what counts (Kubernetes)."""
    try:
        return _mark_of(Path(path).stat())
    except OSError:
        return None


class KeyFile:
    """Follows a file of keys.

    A changed file is taken once it has stayed the same for one poll, so that one that is being
    written is not read half; :meth:`wake` takes it at once. All its keys change together, and a
    file that cannot be used changes none.

    Args:
        path: The file.
        keys: Where its keys go.
        mark: Of the content that was read at start.
        poll_s: Time between two looks at it.
    """

    def __init__(self, path: str, keys: KeyRing, mark: Mark, *, poll_s: float = POLL_S) -> None:
        self._path = path
        self._keys = keys
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._taken = mark

    def wake(self) -> None:
        """Has the file read now, changed or not."""
        self._woken.set()

    async def watch(self, log: FilteringBoundLogger) -> None:
        """Runs until it is cancelled.

        Args:
            log: Told of every change and of every file that could not be used.
        """
        changed = self._taken
        while True:
            is_asked = await self._wait()
            mark = await asyncio.to_thread(_mark_at, self._path)
            if is_asked or (mark == changed and mark != self._taken):
                self._taken = mark
                await self._take(log)
            changed = mark

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _take(self, log: FilteringBoundLogger) -> None:
        try:
            found, self._taken = await asyncio.to_thread(load_key_file, self._path)
            self._keys.replace(found)
        except KeyFault as fault:
            log.warning(
                "key file not taken, the keys before it stay", file=self._path, reason=str(fault)
            )
            return
        log.info("key file taken", file=self._path, keys=len(found))
