"""Which workers may be given a request now."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.scheduling.pairing import PairGroup
    from app.workers.troubles import Troubles
    from app.workers.worker import Worker

UsableGroup: TypeAlias = "tuple[Sequence[Worker], Sequence[Worker]]"
"""Prefill workers and decode workers that fit each other; neither is empty."""


def usable_groups(
    groups: Sequence[PairGroup], excluded: frozenset[str], now_s: float, troubles: Troubles
) -> list[UsableGroup]:
    """Return what may be used of some groups, without those of which a role has nothing."""
    found: list[UsableGroup] = []
    for group in groups:
        prefills = usable(group.prefills, excluded, now_s, troubles)
        if prefills:
            decodes = usable(group.decodes, excluded, now_s, troubles)
            if decodes:
                found.append((prefills, decodes))
    return found


def usable(
    workers: Sequence[Worker], excluded: frozenset[str], now_s: float, troubles: Troubles
) -> Sequence[Worker]:
    """Return the workers that may be used now; full ones only if there is no other.

    Args:
        workers: Ready ones; they themselves are returned when all of them may be used, so that
            what was worked out for them can be found again.
        excluded: Ids of those that are left out.
        now_s: The time of the breakers' clock.
        troubles: Those of the workers' registry.
    """
    if not excluded and troubles.are_none(now_s):
        return workers
    found: list[Worker] = []
    full: list[Worker] = []
    for worker in workers:
        breaker = worker.breaker
        if (breaker.is_closed or breaker.allows(now_s)) and worker.id not in excluded:
            (full if worker.capacity_until_s > now_s else found).append(worker)
    if len(found) == len(workers):
        return workers
    return found or full
