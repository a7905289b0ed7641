"""A circuit breaker for one worker: too many failures among its answers take it out for a while."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Literal

from app.workers.troubles import Troubles

if TYPE_CHECKING:
    from app.clock import Clock

BreakerState = Literal["closed", "open", "half_open"]

TRIAL_PLACE_S = 10.0
"""So long a trial without an outcome keeps others out; it may be a stream of an hour."""


class Trial:
    """One request that was let through to a half-open worker.

    Whoever was given it says how the request ended, by handing it to ``record_success`` or
    ``record_failure``, and in any case calls ``end``: an outcome that says nothing of the worker
    (4xx, a client that left, the other leg's failure) gives the place back without a mark.
    """

    __slots__ = ("_trials", "started_s")

    def __init__(self, trials: set[Trial], started_s: float) -> None:
        self._trials = trials
        self.started_s = started_s

    def end(self) -> None:
        """Give the place back; again is harmless."""
        self._trials.discard(self)


class Breaker:
    """Opens when a worker fails too many of the requests that it answers.

    Two things must be true at once: the last ``failure_threshold`` failures came within
    ``window_s``, and of all requests answered since the first of those, at least
    ``failure_share`` failed. So a worker that fails everything opens it after
    ``failure_threshold`` requests however many it answered before; one that fails every other
    request opens it too, though no two failures come in a row; and a rare failure in heavy
    traffic never does.

    Open for ``open_s``, it lets nothing through. Then it is half open: at most
    ``success_threshold`` trials at a time, that many successes of trials close it, one failure
    of a trial opens it again. Requests sent before it opened say nothing of the worker as it is
    now and do not count.

    Args:
        now_s: Clock in seconds.
        failure_threshold: Failures that open it, 1 or more.
        success_threshold: Successes that close it again, 1 or more.
        open_s: Seconds it stays open before trials.
        window_s: Seconds a failure counts.
        failure_share: Above 0, at most 1; 1 means failures in a row.
        is_disabled: Never open, whatever is recorded.
    """

    __slots__ = (
        "_failure_share",
        "_failures",
        "_is_disabled",
        "_n_good",
        "_n_good_trials",
        "_now_s",
        "_open_s",
        "_opened_s",
        "_success_threshold",
        "_trials",
        "_troubles",
        "_window_s",
        "failure_threshold",
        "is_closed",
    )

    def __init__(
        self,
        now_s: Clock = time.monotonic,
        failure_threshold: int = 10,
        success_threshold: int = 3,
        open_s: float = 60.0,
        window_s: float = 120.0,
        failure_share: float = 0.5,
        *,
        is_disabled: bool = False,
    ) -> None:
        if failure_threshold < 1 or success_threshold < 1:
            raise ValueError("The thresholds of a breaker start at 1.")
        if not 0 < failure_share <= 1:
            raise ValueError("The failure share of a breaker is above 0 and at most 1.")
        self._now_s = now_s
        self.failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._open_s = open_s
        self._window_s = window_s
        self._failure_share = failure_share
        self._is_disabled = is_disabled
        # When each of the last failures came, and how many successes there had been by then:
        # all that the rule needs, so that a success costs one addition.
        self._failures: deque[tuple[float, int]] = deque(maxlen=failure_threshold)
        self._n_good = 0
        self._opened_s = 0.0
        self._n_good_trials = 0
        self._trials: set[Trial] = set()
        self._troubles = Troubles()
        self.is_closed = True
        """True nearly always; read before ``allows`` where every call counts."""

    @property
    def state(self) -> BreakerState:
        """The state at this moment: closed, open or half_open."""
        if self.is_closed:
            return "closed"
        return "open" if self._now_s() < self.trials_from_s else "half_open"

    @property
    def trials_from_s(self) -> float:
        """When trials begin, or began, if it is not closed."""
        return self._opened_s + self._open_s

    @property
    def n_failures(self) -> int:
        """Failures within the window, ``failure_threshold`` at most; 0 while it is not closed."""
        since_s = self._now_s() - self._window_s
        return sum(at_s >= since_s for at_s, _ in self._failures)

    def allows(self, now_s: float | None = None) -> bool:
        """Tell whether a request may go to the worker now; changes nothing.

        Args:
            now_s: The time of the breaker's clock, if the caller has read it already.
        """
        if self.is_closed:
            return True
        if now_s is None:
            now_s = self._now_s()
        if now_s < self.trials_from_s:
            return False
        n_places = sum(now_s - trial.started_s < TRIAL_PLACE_S for trial in self._trials)
        return n_places < self._success_threshold

    def start_trial(self) -> Trial | None:
        """Count a request that is sent now; None unless half open: nothing is owed."""
        if self.is_closed:
            return None
        now_s = self._now_s()
        if now_s < self.trials_from_s:
            return None
        trial = Trial(self._trials, now_s)
        self._trials.add(trial)
        return trial

    def record_success(self, trial: Trial | None = None) -> None:
        """Note that the worker did what it was asked.

        Args:
            trial: What ``start_trial`` gave when the request was sent.
        """
        if self.is_closed:
            self._n_good += 1
        elif trial in self._trials:
            self._trials.discard(trial)
            self._n_good_trials += 1
            if self._n_good_trials >= self._success_threshold:
                self.reset()

    def record_successes(self, n_good: int) -> None:
        """Note so many successes at once, none of them of a trial."""
        if self.is_closed:
            self._n_good += n_good

    def record_failure(self, trial: Trial | None = None) -> None:
        """Note that the worker failed a request by its own fault.

        Args:
            trial: As of ``record_success``.
        """
        if self._is_disabled:
            return
        now_s = self._now_s()
        if not self.is_closed:
            if trial in self._trials:
                self._open(now_s)
            return
        failures = self._failures
        failures.append((now_s, self._n_good))
        since_s, n_good_by_then = failures[0]
        n_failed = len(failures)
        if n_failed < self.failure_threshold or now_s - since_s > self._window_s:
            return
        n_answered = n_failed + self._n_good - n_good_by_then
        if n_failed >= self._failure_share * n_answered:
            self._open(now_s)

    def reset(self) -> None:
        """Close it and forget everything, as for a worker that was started anew."""
        self._become(is_closed=True)

    def join(self, troubles: Troubles) -> None:
        """Tell its trouble there from now on, and no longer where it did."""
        self._troubles.forget_breaker(self)
        self._troubles = troubles
        troubles.note_breaker(self)

    @property
    def opened_s(self) -> float:
        """When it opened last; 0.0: never."""
        return self._opened_s

    def take_over(self, *, is_closed: bool, opened_s: float) -> None:
        """Make it what another process's breaker of the same worker is."""
        if is_closed != self.is_closed or opened_s != (0.0 if is_closed else self._opened_s):
            self._opened_s = opened_s
            self._become(is_closed=is_closed)

    def _open(self, now_s: float) -> None:
        self._opened_s = now_s
        self._become(is_closed=False)

    def _become(self, *, is_closed: bool) -> None:
        """Be open or closed, and forget what was counted until now."""
        self.is_closed = is_closed
        self._troubles.note_breaker(self)
        self._failures.clear()
        self._n_good = 0
        self._n_good_trials = 0
        # A trial of an earlier round keeps its old, empty set: it finds no place here any more.
        self._trials = set()
