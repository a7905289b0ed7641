"""A request on one worker: who serves it, and its lease. The counterpart of a pair's grant."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from app.scheduling.reason import Alone, Choice
from app.workers.worker import Role

if TYPE_CHECKING:
    from app.errors import Leg
    from app.scheduling.grant import Ask
    from app.workers.breaker import Trial
    from app.workers.lease import Lease
    from app.workers.worker import Worker


class Why(StrEnum):
    """Why no prefill worker has a part in a request."""

    NO_PAIR = "no_pair"
    """No pair can take it, a regular worker can."""
    SHORT = "short"
    """Its prompt is not worth a transfer."""
    CACHED = "cached"
    """Most of its prompt is cached where it is decoded."""
    MISSING_PREFILL = "missing_prefill"
    """No prefill worker can be used, and the operator lets decode serve alone."""


@dataclass(slots=True)
class Solo:
    """The one worker of a request.

    Attributes:
        worker: A regular worker, or a decode worker that computes the prompt itself.
        why: Why it serves alone.
        rank: Its data-parallel rank, 0 if it has one only.
        trial: The request's place, if its breaker is half open.
    """

    worker: Worker
    why: Why
    rank: int = 0
    trial: Trial | None = None

    @property
    def leg(self) -> Leg | None:
        """What errors call it; a regular worker is no leg."""
        return "decode" if self.worker.spec.role is Role.DECODE else None

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Whoever has a part in the request."""
        return (self.worker,)

    def of(self, leg: Leg | None) -> tuple[Worker, Trial | None] | None:
        """Return who pays for a failure of this leg, with the request's place there."""
        del leg
        return self.worker, self.trial


@dataclass(slots=True)
class SoloGrant:
    """One worker with its lease, to be given back by the scheduler's ``done``.

    Attributes:
        choice: How the worker was chosen; ``None``: by no policy.
        note: The scheduler's own.
        n_cached: Prompt tokens that were in its cache, where the answer told.
    """

    ask: Ask
    solo: Solo
    lease: Lease
    choice: Choice | None = None
    note: object = None
    n_cached: int | None = None

    @property
    def reason(self) -> Alone:
        """Why this worker, and alone."""
        solo = self.solo
        return Alone(solo.worker.spec.url, solo.why, solo.rank, self.choice)

    def end(self) -> None:
        """Give the lease back; again is harmless."""
        self.lease.release()
        if self.solo.trial is not None:
            self.solo.trial.end()


class SoloCounts:
    """How many requests were served without a prefill worker, by reason."""

    def __init__(self) -> None:
        self.by_why: Counter[Why] = Counter()

    def add(self, why: Why) -> None:
        """One more."""
        self.by_why[why] += 1
