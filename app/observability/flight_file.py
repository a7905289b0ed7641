"""The flight recorder's requests in a file, for those who want more of them than memory holds."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from app.clock import Clock
from app.observability.flight_export import BlockIds, as_lines
from app.observability.flight_recorder import Flight, FlightRecorder

WRITE_EVERY_S = 2.0


class FlightFile:
    """Appends one JSON object a request; a full file is kept once more beside the new one.

    Args:
        path: Of the file; ``.1`` is put behind it for the full one.
        max_bytes: Of each of the two.
        recorder: Where requests come from. Those that it forgets between two writes are lost.
        now_s: The gateway's clock.
        unix_s: The time of day.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(
        self, path: Path, max_bytes: int, recorder: FlightRecorder, now_s: Clock, unix_s: Clock
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._recorder = recorder
        self._now_s = now_s
        self._unix_s = unix_s
        self._n_written = 0
        self._block_ids = BlockIds()
        # The write of the end may come while one in a cancelled loop's thread still runs.
        self._lock = threading.Lock()
        with path.open("ab"):
            # It can be written; nothing is yet.
            pass

    async def run(self) -> None:
        """Writes until cancelled, in a thread; a disk that is slow or full delays no request.

        Raises:
            OSError: The file cannot be written any more.
        """
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Appends the requests that are new since the last time.

        Raises:
            OSError: The file cannot be written.
        """
        with self._lock:
            self._write()

    def _write(self) -> None:
        n_recorded = self._recorder.n_recorded
        n_new = n_recorded - self._n_written
        if not n_new:
            return
        flights: list[Flight] = list(self._recorder.last(min(n_new, len(self._recorder))))
        self._n_written = n_recorded
        if self._path.stat().st_size >= self._max_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        with self._path.open("ab") as file:
            offset_s = self._unix_s() - self._now_s()
            file.writelines(as_lines(flights, offset_s, self._block_ids))
