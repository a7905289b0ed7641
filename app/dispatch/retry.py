"""Whether a failed attempt may be followed by another one, on another pair.

By default only while nothing has reached an engine: a generation that may have run is not run
twice. On demand also after a worker's own 5xx, but never after a prefill that ran.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.errors import LegRejected, WorkerError
from app.protocol.peer_blame import is_peer_death

if TYPE_CHECKING:
    from app.clock import Clock
    from app.dispatch.retry_budget import RetryBudget
    from app.errors import Leg
    from app.scheduling.scheduler import Pair
    from app.scheduling.solo import Solo

ATTEMPTS_HEADER = b"x-tandem-attempts"
_FIRST = (ATTEMPTS_HEADER, b"1")


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What the operator allows.

    Attributes:
        max_attempts: Pairs tried for one request, 1 or more.
        deadline_s: No further attempt starts so long after the first.
        is_after_5xx: Try another pair also where a worker answered 5xx.
        initial_backoff_s: Pause before a retry that follows a 5xx; a worker that could not be
            reached is replaced at once.
        max_backoff_s: Longest pause.
        backoff_multiplier: What each further pause is longer by.
        jitter: Share by which a pause is randomly shorter or longer, 0 .. 1.
    """

    max_attempts: int = 5
    deadline_s: float = 30.0
    is_after_5xx: bool = False
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 30.0
    backoff_multiplier: float = 1.5
    jitter: float = 0.2

    def backoff_s(self, n_retries: int, spread: float) -> float:
        """Returns a pause by SMG 1.13's formula.

        Args:
            n_retries: Retries before this one.
            spread: Chance, -1 .. 1.
        """
        try:
            grown_s = self.initial_backoff_s * self.backoff_multiplier**n_retries
        except OverflowError:
            grown_s = self.max_backoff_s
        return min(grown_s, self.max_backoff_s) * (1.0 + self.jitter * spread)


class Running(Protocol):
    """An attempt under way."""

    @property
    def awaited_leg(self) -> Leg | None:
        """The leg whose word is awaited, as far as anybody can tell."""


class Attempts:
    """The attempts of one request.

    Args:
        rules: What is allowed.
        budget: The gateway's.
        n_prompt_tokens: What an attempt costs.
        now_s: The clock.

    Attributes:
        n_started: Attempts so far, the running one included.
        running: The running one.
        awaited_leg: Of the last one that ended: the leg whose word was awaited then.
        tried: Ids of the workers that failed this request.
        last_error: The failure of the last attempt.
        delay_s: Pause before the attempt that may follow.
        refusal: Why a retry that was safe did not follow: ``limit``, ``deadline``, ``budget``.
    """

    __slots__ = (
        "_budget",
        "_deadline_s",
        "_n_prompt_tokens",
        "_now_s",
        "_rules",
        "awaited_leg",
        "delay_s",
        "last_error",
        "n_started",
        "refusal",
        "running",
        "tried",
    )

    def __init__(
        self, rules: RetryRules, budget: RetryBudget, n_prompt_tokens: int, now_s: Clock
    ) -> None:
        self._rules = rules
        self._budget = budget
        self._n_prompt_tokens = n_prompt_tokens
        self._now_s = now_s
        self._deadline_s = 0.0
        self.n_started = 0
        self.running: Running | None = None
        self.awaited_leg: Leg | None = None
        self.tried: frozenset[str] = frozenset()
        self.last_error: WorkerError | None = None
        self.delay_s = 0.0
        self.refusal = ""

    @property
    def header(self) -> tuple[bytes, bytes]:
        """What an answer says of them."""
        return _FIRST if self.n_started == 1 else (ATTEMPTS_HEADER, b"%d" % self.n_started)

    def begin(self) -> None:
        """Counts an attempt that starts now; the deadline runs from the first one on."""
        self.n_started += 1
        if self.n_started == 1:
            now_s = self._now_s()
            self._deadline_s = now_s + self._rules.deadline_s
            self._budget.note_dispatch(self._n_prompt_tokens, now_s)

    def end(self, *, is_ok: bool = False) -> None:
        """Lets go of the running one, which knows these attempts: a circle of all it holds.

        Args:
            is_ok: It did well, so nobody will ask whose word was awaited.
        """
        if self.running is not None:
            if not is_ok:
                self.awaited_leg = self.running.awaited_leg
            self.running = None

    def may_follow(self, error: WorkerError, pair: Pair | Solo, *, has_prefilled: bool) -> bool:
        """Notes a failure and tells whether another pair may be tried, after ``delay_s``.

        Args:
            error: The failure, settled.
            pair: Whose it was, or the one worker.
            has_prefilled: A prefill of the attempt was completed, or may have been.
        """
        self.last_error = error
        if error.leg is None:
            # One of them failed, and nobody knows which.
            self.tried |= {worker.id for worker in pair.workers}
        else:
            self.tried |= {error.worker_id}
        self.delay_s = 0.0
        if not error.is_unsent:
            if has_prefilled or not self._rules.is_after_5xx or not _is_own_5xx(error):
                return False
            spread = random.uniform(-1.0, 1.0)
            self.delay_s = self._rules.backoff_s(self.n_started - 1, spread)
        return self.has_room() and self.may_prefill_again()

    def may_prefill_again(self) -> bool:
        """Tells whether the budget lets the prompt be dispatched once more; takes it if so."""
        if self._budget.take(self._n_prompt_tokens):
            return True
        self.refusal = "budget"
        return False

    def has_room(self) -> bool:
        """Tells whether number and deadline allow one more, after ``delay_s``."""
        if self.n_started >= self._rules.max_attempts:
            self.refusal = "limit"
        elif self._now_s() + self.delay_s >= self._deadline_s:
            self.refusal = "deadline"
        else:
            return True
        return False


def _is_own_5xx(error: WorkerError) -> bool:
    """The worker refused by itself; a failed handover comes after prefill has begun."""
    is_5xx = isinstance(error, LegRejected) and error.status >= 500
    return is_5xx and not is_peer_death(error.message)
