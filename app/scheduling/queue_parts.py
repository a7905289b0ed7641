"""What the queue's scheduler is told and what it keeps: limits, wishes, what a grant holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.errors import CapacityError

if TYPE_CHECKING:
    import asyncio

    from app.scheduling.fed import Fed
    from app.scheduling.scheduler import Ask, Grant
    from app.scheduling.standing import SloClass
    from app.scheduling.usable import UsableGroup
    from app.workers.worker import Worker

_MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait.

    Attributes:
        n_waiting: Requests in the queue.
        deadline_s: Longest wait of one.
        index_bytes: Memory of the prefix index.
        poll_s: How often workers are asked for their load.
        n_places: Prefill ranks that are told apart; a block of the index has a bit for each.
        kv_bytes: Memory of what workers tell of their caches; 0: nobody listens.
    """

    n_waiting: int = 4096
    deadline_s: float = 60.0
    index_bytes: int = 64 * 1024 * 1024
    poll_s: float = 0.1
    n_places: int = 192
    kv_bytes: int = 0


@dataclass(slots=True, eq=False)
class Wish:
    """What is behind a waiting request: who asks, and who waits for the answer.

    Attributes:
        ask: The request.
        answer: What it waits for.
        groups: The workers that it can go to, while nothing has awaited since they were looked
            up.
    """

    ask: Ask
    answer: asyncio.Future[Grant] = field(repr=False)
    groups: list[UsableGroup] | None = None


@dataclass(slots=True)
class Held:
    """What a grant holds beside its leases."""

    fed: Fed
    decode: Worker
    n_kv_tokens: int


@dataclass(frozen=True, slots=True)
class RankState:
    """What is believed of a prefill rank, for metrics and pages.

    Attributes:
        worker_id: Its worker.
        rank: Its number there.
        tokens_per_s: How fast it computes.
        lead_s: From dispatch until it can start a request.
        n_unstarted_tokens: What it was sent and has not started.
        is_fresh: Whether its engine's word counts; else it is fed without restraint.
    """

    worker_id: str
    rank: int
    tokens_per_s: float
    lead_s: float
    n_unstarted_tokens: float
    is_fresh: bool


def queue_full(n_waiting: int) -> CapacityError:
    """The refusal where no more may wait."""
    return CapacityError(
        f"{n_waiting} requests wait already, as many as may.", code="queue_full", retry_after_s=1
    )


def queue_deadline(limit_s: float) -> CapacityError:
    """The refusal of one that waited as long as any may."""
    return CapacityError(
        f"The request waited {limit_s:g} s for a prefill worker.",
        code="queue_deadline",
        retry_after_s=1,
    )


def deadline_unreachable(slo: SloClass, predicted_s: float = 0.0) -> CapacityError:
    """The refusal of one whose class has a deadline that it would miss.

    Args:
        slo: The class.
        predicted_s: When its first token would come, if that is foreseen.
    """
    too_late_s = math.ceil(predicted_s - slo.deadline_s)
    limit_s = f"{slo.deadline_s:g} s"
    return CapacityError(
        f"The first token would not come within the {limit_s} of the class {slo.name!r}.",
        code="deadline_unreachable",
        retry_after_s=min(_MAX_RETRY_AFTER_S, max(1, too_late_s)),
    )
