"""The parts of the gateway that a call to an SGLang pair works with."""

from __future__ import annotations

from dataclasses import dataclass

from app.dispatch.abort import LegReaper
from app.dispatch.limits import LegLimits
from app.scheduling.scheduler import Scheduler
from app.upstream.clients import WorkerClients


@dataclass(frozen=True, slots=True)
class LegTools:
    """What every call needs of its surroundings.

    Attributes:
        hold_decode_s: Longest wait for a prefill refusal once decode has spoken.
        limits: How long a leg may keep a request waiting.
        dp_aware: SGLang workers are told which data-parallel rank is meant.
    """

    clients: WorkerClients
    scheduler: Scheduler
    reaper: LegReaper
    hold_decode_s: float
    limits: LegLimits
    dp_aware: bool = False
