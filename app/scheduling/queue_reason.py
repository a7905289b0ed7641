"""How the queue before prefill says why it sent a request where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.scheduling.reason import QUEUE, Candidates, Choice, Queued

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.scheduling.fed import Fed
    from app.scheduling.policy_slot import PolicySlot
    from app.scheduling.usable import UsableGroup
    from app.workers.worker import Worker


def why_fed(
    slot: PolicySlot,
    fed: Fed,
    prefill: Worker,
    groups: Sequence[UsableGroup],
    facts: RequestFacts,
    roster: tuple[str, ...],
) -> tuple[Choice, Queued]:
    """Return how a prefill worker was chosen and what the queue knew.

    A shadow of the prefill policy is asked here: while the queue chooses, the policy is not.

    Args:
        slot: Prefill's policy and its shadow.
        fed: The queue's choice.
        prefill: The worker it is.
        groups: Those that could take the request.
        facts: The request.
        roster: Workers' URLs by place.
    """
    shadow = ""
    if slot.shadow is not None:
        everyone = [worker for members, _ in groups for worker in members]
        shadow = slot.compare(everyone, facts, prefill)
    n_places = int(np.count_nonzero(fed.waiting.places))
    return (
        Choice(prefill.spec.url, QUEUE, "", n_places, prefill.n_leases, shadow),
        Queued(
            fed.waited_s,
            fed.wait_ahead_s,
            fed.n_uncached,
            fed.expected_s,
            Candidates(roster, fed.finish_s),
        ),
    )
