"""The file of keys, read again while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from app.followed_files import POLL_S, FollowedFiles, Mark, mark_of
from app.middleware.key_ring import KeyRing
from app.middleware.keys import Key, KeyFault, read_key_file

MAX_FILE_BYTES = 16 * 1024 * 1024


def load_key_file(path: str) -> tuple[tuple[Key, ...], Mark]:
    """Reads a file of keys; with the mark of what was read.

    Raises:
        KeyFault: It cannot be read or used.
    """
    try:
        with Path(path).open("rb") as file:
            mark = mark_of(os.fstat(file.fileno()))
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise KeyFault(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeyFault("it is not UTF-8") from None
    if len(data) > MAX_FILE_BYTES:
        raise KeyFault(f"it has more than {MAX_FILE_BYTES} bytes")
    return read_key_file(text), mark


class KeyFile(FollowedFiles):
    """Follows a file of keys.

    All its keys change together, and a file that cannot be used changes none.

    Args:
        path: The file.
        keys: Where its keys go.
        mark: Of the content that was read at start.
        poll_s: Time between two looks at it.
    """

    def __init__(self, path: str, keys: KeyRing, mark: Mark, *, poll_s: float = POLL_S) -> None:
        super().__init__([path], (mark,), poll_s=poll_s)
        self._keys = keys

    async def take(self, log: FilteringBoundLogger) -> None:
        """Reads the keys; those before them stay if they cannot be used."""
        (path,) = self.paths
        try:
            found, mark = await asyncio.to_thread(load_key_file, path)
            self._taken = (mark,)
            self._keys.replace(found)
        except KeyFault as fault:
            log.warning("key file not taken, the keys before it stay", file=path, reason=str(fault))
            return
        log.info("key file taken", file=path, keys=len(found))
