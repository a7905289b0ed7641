"""What the prefill queue tells of itself, for figures and for autoscaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.scheduling.feeder import Feeder


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One look at the queue; read from another thread, so its numbers may be a request apart.

    Attributes:
        n_waiting: Requests in the queue.
        oldest_wait_s: How long the one that waits longest has waited.
        n_waiting_tokens: Their uncached tokens, each at the rank that would have fewest.
        n_backlog_tokens: Uncached tokens that ranks were sent and have not finished.
        rate_tokens_per_s: Of all ranks together, as learned.
        queue_s: How long all of that keeps all ranks busy; what one more worker would shorten.
        n_fed_tokens: Prompt tokens of all requests fed so far.
        n_fed_cached_tokens: Those of them that the prefix index said were cached.
        index_bytes: Size of the prefix index.
        n_early: Requests that were bound at once for want of a rank's place.
    """

    n_waiting: int
    oldest_wait_s: float
    n_waiting_tokens: float
    n_backlog_tokens: float
    rate_tokens_per_s: float
    queue_s: float
    n_fed_tokens: float
    n_fed_cached_tokens: float
    index_bytes: int
    n_early: int


def read_figures(feeder: Feeder, now_s: float, n_early: int) -> QueueFigures:
    """Looks at a feeder."""
    ledgers = [ledger for ledger in feeder.ledgers if ledger is not None]
    rate = sum(ledger.rate_tokens_per_s for ledger in ledgers)
    backlog = sum(ledger.backlog_tokens(now_s) for ledger in ledgers)
    waiting = feeder.queue.n_tokens
    return QueueFigures(
        n_waiting=len(feeder.queue),
        oldest_wait_s=max(0.0, now_s - feeder.queue.oldest_s),
        n_waiting_tokens=waiting,
        n_backlog_tokens=backlog,
        rate_tokens_per_s=rate,
        queue_s=(waiting + backlog) / rate if rate else 0.0,
        n_fed_tokens=feeder.n_fed_tokens,
        n_fed_cached_tokens=feeder.n_fed_cached_tokens,
        index_bytes=feeder.index_bytes,
        n_early=n_early,
    )
