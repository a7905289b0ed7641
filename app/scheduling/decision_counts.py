"""How often which rule of which policy decided, and how often the shadow agreed."""

from __future__ import annotations

from collections import Counter

from app.observability.notes import Notes
from app.scheduling.reason import Alone, Reason
from app.scheduling.solo import Why


class DecisionCounts:
    """Counts the reasons of requests that are over; of each its last attempt.

    Attributes:
        chosen: By role, policy and the policy's own word, of which each has few.
        shadows: By role, and whether the shadow would have taken the same worker.
        alone: Requests that one worker served without a pair, by the reason.
    """

    def __init__(self) -> None:
        self.chosen: Counter[tuple[str, str, str]] = Counter()
        self.shadows: Counter[tuple[str, bool]] = Counter()
        self.alone: Counter[str] = Counter({str(why): 0 for why in Why})

    def add(self, notes: Notes) -> None:
        """Counts one request."""
        reason = notes.reason
        if isinstance(reason, Reason):
            for role, choice in (("prefill", reason.prefill), ("decode", reason.decode)):
                self.chosen[role, choice.policy, choice.why] += 1
                if choice.shadow:
                    self.shadows[role, choice.shadow == choice.worker] += 1
        elif isinstance(reason, Alone):
            self.alone[str(reason.why)] += 1
