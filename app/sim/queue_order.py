"""The order in which a simulated prefill engine takes what waits on it (``--schedule-policy``).

As in SGLang 0.5.23 (``managers/schedule_policy.py``): ``fcfs``; ``shortest-prefill-first``, fewest
uncached tokens first, with no regard to waiting; ``hrrn``, by the prefill tokens computed since a
request came over its own. Any other name is taken as ``fcfs``.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.sim.jobs import Job

SHORTEST, RATIO = "shortest-prefill-first", "hrrn"


def next_job(policy: str, queue: Iterable[Job], n_computed: int) -> Job | None:
    """Returns the request that goes next, if any waits.

    Args:
        policy: The engine's.
        queue: What waits, in the order of coming.
        n_computed: Prefill tokens of the rank so far.
    """
    waiting = (job for job in queue if not job.is_over)
    if policy == SHORTEST:
        return min(waiting, key=lambda job: job.n_uncached, default=None)
    if policy == RATIO:
        return max(
            waiting,
            key=lambda job: (n_computed - job.n_computed_before) / max(1, job.n_uncached),
            default=None,
        )
    return next(waiting, None)


def chunk_limit(policy: str, n_left: int, queue: Iterable[Job], budget: int, page: int) -> int:
    """Returns how much of a step a request that is under way may have.

    With ``shortest-prefill-first`` shorter ones that wait share its step.
    """
    if policy != SHORTEST or budget < 2 * page:
        return budget
    reserved = 0
    for n_uncached in sorted(job.n_uncached for job in queue if not job.is_over):
        charge = -(-max(1, n_uncached) // page) * page
        if n_uncached >= n_left or reserved + charge > budget - page:
            break
        reserved += charge
    return (budget - reserved) // page * page if reserved else budget
