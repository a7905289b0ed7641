"""Which worker each session is at, for a bounded number of sessions."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class Session(NamedTuple):
    """Where a session is.

    Attributes:
        worker_id: The worker it is at.
        before_id: The one before; empty if there was none.
        used_s: When it was used last.
    """

    worker_id: str
    before_id: str
    used_s: float


class SessionTable:
    """Sessions by key, the one used last at the end.

    Args:
        max_idle_s: One that nobody used for so long is forgotten.
        max_keys: Sessions kept.

    Raises:
        ValueError: A limit is not above 0.
    """

    def __init__(self, max_idle_s: float, max_keys: int) -> None:
        if max_idle_s <= 0 or max_keys < 1:
            raise ValueError("The idle time is above 0, and one key at least is kept.")
        self._max_idle_s = max_idle_s
        self._max_keys = max_keys
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._n_keys: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def n_keys(self, worker_id: str) -> int:
        """Return how many sessions are at a worker."""
        return self._n_keys.get(worker_id, 0)

    def get(self, key: bytes, now_s: float) -> Session | None:
        """Return where a session is; ``None`` if it is not known, or was idle for too long.

        Every call forgets two idle ones at most, so that no request pays for many: each call adds
        one.
        """
        for _ in range(2):
            oldest = next(iter(self._sessions), None)
            if oldest is None or now_s - self._sessions[oldest].used_s < self._max_idle_s:
                break
            self._drop(oldest)
        session = self._sessions.get(key)
        if session is not None and now_s - session.used_s >= self._max_idle_s:
            self._drop(key)
            return None
        return session

    def put(self, key: bytes, worker_id: str, now_s: float) -> None:
        """Note that a session is at a worker, and is used."""
        old = self._sessions.pop(key, None)
        before_id = ""
        if old is not None:
            before_id = old.before_id if old.worker_id == worker_id else old.worker_id
            self._count(old.worker_id, -1)
        self._sessions[key] = Session(worker_id, before_id, now_s)
        self._count(worker_id, 1)
        if len(self._sessions) > self._max_keys:
            self._drop(next(iter(self._sessions)))

    def _drop(self, key: bytes) -> None:
        self._count(self._sessions.pop(key).worker_id, -1)

    def _count(self, worker_id: str, change: int) -> None:
        n_keys = self._n_keys.get(worker_id, 0) + change
        if n_keys:
            self._n_keys[worker_id] = n_keys
        else:
            del self._n_keys[worker_id]
