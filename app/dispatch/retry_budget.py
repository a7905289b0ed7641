"""How many prompt tokens may be dispatched a second time.

Counted in tokens and not in requests: a retry computes its prompt again, and one prompt may be
ten thousand times as long as another. While a fleet fails, retries add a bounded share to its
load instead of multiplying it.
"""

from __future__ import annotations

import math

from app.clock import Clock

WINDOW_S = 10.0
"""What was dispatched so long ago counts for 1/e."""
_STEP_S = 0.1
"""Between two looks at the clock on the hot path; what came in between counts as the older."""


class RetryBudget:
    """One for the whole gateway; both sums leak with time.

    At any moment: retried tokens <= ``share`` x dispatched tokens + ``floor_tokens``, where a
    token that was dispatched or retried ``t`` seconds ago counts ``exp(-t / WINDOW_S)``.

    Args:
        share: Of the tokens dispatched lately, 0 or more.
        floor_tokens: What may be retried however little is dispatched.
        now_s: The clock.

    Attributes:
        n_refused: Retries that it did not allow.
    """

    __slots__ = (
        "_dispatched_tokens",
        "_floor_tokens",
        "_leaked_s",
        "_now_s",
        "_retried_tokens",
        "_share",
        "n_refused",
    )

    def __init__(self, share: float, floor_tokens: float, now_s: Clock) -> None:
        self._share = share
        self._floor_tokens = floor_tokens
        self._now_s = now_s
        self._leaked_s = now_s()
        self._dispatched_tokens = 0.0
        self._retried_tokens = 0.0
        self.n_refused = 0

    def note_dispatch(self, n_tokens: int, now_s: float) -> None:
        """Counts the first dispatch of a request.

        Args:
            n_tokens: Of its prompts.
            now_s: The time of the budget's clock.
        """
        if now_s - self._leaked_s > _STEP_S:
            self._leak(now_s)
        self._dispatched_tokens += n_tokens

    def take(self, n_tokens: int) -> bool:
        """Counts a further dispatch of a request, if it may be.

        Args:
            n_tokens: Of its prompts.
        """
        self._leak(self._now_s())
        allowed_tokens = self._share * self._dispatched_tokens + self._floor_tokens
        if self._retried_tokens + n_tokens > allowed_tokens:
            self.n_refused += 1
            return False
        self._retried_tokens += n_tokens
        return True

    def _leak(self, now_s: float) -> None:
        left = math.exp((self._leaked_s - now_s) / WINDOW_S)
        self._leaked_s = now_s
        self._dispatched_tokens *= left
        self._retried_tokens *= left
