"""Whether a failed attempt may be followed by another one.

Only while nothing has reached an engine: a generation that may have run is never run twice.
"""

from __future__ import annotations

from app.clock import Clock
from app.errors import WorkerError


class Attempts:
    """The attempts of one request.

    Args:
        max_attempts: Pairs tried at most.
        deadline_s: Seconds after which no further attempt starts.
        now_s: The clock.

    Attributes:
        tried: Ids of the workers that failed this request.
        last_error: The failure of the last attempt.
    """

    def __init__(self, max_attempts: int, deadline_s: float, now_s: Clock) -> None:
        self._max_attempts = max_attempts
        self._now_s = now_s
        self._deadline_s = now_s() + deadline_s
        self.n_started = 0
        self.tried: frozenset[str] = frozenset()
        self.last_error: WorkerError | None = None

    def may_follow(self, error: WorkerError) -> bool:
        """Notes a failure and tells whether another pair may be tried."""
        self.last_error = error
        self.tried = self.tried | {error.worker_id}
        return (
            error.is_unsent
            and self.n_started < self._max_attempts
            and self._now_s() < self._deadline_s
        )
