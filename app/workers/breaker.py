"""A circuit breaker for one worker: many failures in a row take it out for a while."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from app.clock import Clock

BreakerState = Literal["closed", "open", "half_open"]

_TRIAL_EXPIRY_S = 10.0
"""After this long a trial whose outcome nobody reported no longer holds its place."""


class Breaker:
    """Opens after ``failure_threshold`` failures in a row within ``window_s``.

    While open nothing is let through. After ``open_s`` it is half open: at most
    ``success_threshold`` requests at a time are let through as trials, that many
    successes in a row close it, and one failure opens it again. A success while closed
    forgets the failures; failures older than the window are forgotten as well.

    Args:
        now_s: Clock in seconds.
        failure_threshold: Failures that open it, 1 or more.
        success_threshold: Successes that close it again, 1 or more.
        open_s: Seconds it stays open before trials.
        window_s: Seconds a failure counts.
        is_disabled: Never open, whatever is recorded.
    """

    __slots__ = (
        "_failure_threshold",
        "_failures_s",
        "_is_disabled",
        "_n_successes",
        "_n_trials",
        "_now_s",
        "_open_s",
        "_opened_s",
        "_success_threshold",
        "_trial_s",
        "_window_s",
        "is_closed",
    )

    def __init__(
        self,
        now_s: Clock = time.monotonic,
        failure_threshold: int = 10,
        success_threshold: int = 3,
        open_s: float = 60.0,
        window_s: float = 120.0,
        *,
        is_disabled: bool = False,
    ) -> None:
        if failure_threshold < 1 or success_threshold < 1:
            raise ValueError("The thresholds of a breaker start at 1.")
        self._now_s = now_s
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._open_s = open_s
        self._window_s = window_s
        self._is_disabled = is_disabled
        self._failures_s: deque[float] = deque(maxlen=failure_threshold)
        self._opened_s = 0.0
        self._n_successes = 0
        self._n_trials = 0
        self._trial_s = 0.0
        self.is_closed = True
        """True nearly always; read before ``allows`` where every call counts."""

    @property
    def state(self) -> BreakerState:
        """The state at this moment: closed, open or half_open."""
        if self.is_closed:
            return "closed"
        if self._now_s() - self._opened_s < self._open_s:
            return "open"
        return "half_open"

    def allows(self, now_s: float | None = None) -> bool:
        """Tell whether a request may go to the worker now; changes nothing.

        Args:
            now_s: The time of the breaker's clock, if the caller has read it already.
        """
        if self.is_closed:
            return True
        if now_s is None:
            now_s = self._now_s()
        if now_s - self._opened_s < self._open_s:
            return False
        return self._n_trials < self._success_threshold or now_s - self._trial_s >= _TRIAL_EXPIRY_S

    def note_dispatch(self) -> None:
        """Count a request that is sent while half open as a trial."""
        if self.is_closed:
            return
        now_s = self._now_s()
        if now_s - self._trial_s >= _TRIAL_EXPIRY_S:
            self._n_trials = 0
        self._n_trials += 1
        self._trial_s = now_s

    def record_success(self) -> None:
        """Note that the worker did what it was asked."""
        if self.is_closed:
            if self._failures_s:
                self._failures_s.clear()
            return
        if self.state == "open":
            # An old request that ended well says nothing about the failures since.
            return
        self._n_trials = max(0, self._n_trials - 1)
        self._n_successes += 1
        if self._n_successes >= self._success_threshold:
            self.reset()

    def record_failure(self) -> None:
        """Note that the worker failed a request by its own fault."""
        if self._is_disabled:
            return
        now_s = self._now_s()
        if not self.is_closed:
            if now_s - self._opened_s >= self._open_s:
                self._open(now_s)
            return
        failures_s = self._failures_s
        failures_s.append(now_s)
        if len(failures_s) == self._failure_threshold and now_s - failures_s[0] <= self._window_s:
            self._open(now_s)

    def reset(self) -> None:
        """Close it and forget everything, as for a worker that was started anew."""
        self.is_closed = True
        self._failures_s.clear()
        self._n_successes = 0
        self._n_trials = 0

    def _open(self, now_s: float) -> None:
        self.is_closed = False
        self._opened_s = now_s
        self._failures_s.clear()
        self._n_successes = 0
        self._n_trials = 0
