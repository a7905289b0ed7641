"""What the soak did to which worker, and whether an error that a client got fits it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from tests.soak.client import Told

EARLY_S, LATE_S = 0.5, 3.0
"""An event may be felt a little before it is noted, and for a while after it."""
FULL = frozenset({"no_available_pair", "no_capacity", "queue_full"})
"""What a gateway without usable workers says; no leg is at fault."""


class Verdict(StrEnum):
    """What an error is worth."""

    FITS = "fits"
    WRONG_LEG = "wrong leg named"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a worker from one time to another.

    Attributes:
        key: Of a fault that one request ran into: text in which the request's nonce stands.
            Without one, every request of that time may have felt it.
    """

    fleet: str
    role: str
    kind: str
    began_s: float
    ended_s: float
    key: str = ""


class Truth:
    """Everything that was done, in the order in which it ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.n_by_kind: Counter[str] = Counter()

    def note(self, event: Event) -> None:
        """Keeps an event."""
        self.events.append(event)
        self.n_by_kind[event.kind] += 1

    def near(self, told: Told) -> list[Event]:
        """What a request may have felt."""
        return [event for event in self.events if _is_felt(event, told)]

    def judge(self, told: Told) -> Verdict:
        """Whether an error has a cause, and names its leg or none."""
        near = self.near(told)
        if not near:
            return Verdict.UNEXPLAINED
        if told.leg is None or told.code in FULL:
            return Verdict.FITS
        if any(event.role == told.leg for event in near):
            return Verdict.FITS
        if told.code == "kv_load_failed":
            # Decode could not load what a dead prefill worker had kept; it is named for that.
            return Verdict.FITS
        return Verdict.WRONG_LEG


def _is_felt(event: Event, told: Told) -> bool:
    if event.fleet != told.asked.fleet:
        return False
    if event.key:
        return told.asked.nonce in event.key
    return event.began_s - EARLY_S < told.ended_s and told.began_s < event.ended_s + LATE_S
