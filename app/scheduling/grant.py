"""What is asked of the scheduler, and what it grants: a pair with its leases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from app.scheduling.standing import ANYBODY, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.errors import Leg
    from app.protocol.facts import RequestFacts
    from app.scheduling.reason import Reason
    from app.scheduling.token_prompt import TokenPrompt
    from app.workers.breaker import Trial
    from app.workers.lease import Lease
    from app.workers.worker import Worker


class Outcome(StrEnum):
    """How a granted request ended."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Ask:
    """A request that wants a pair; nobody changes it, and frozen it would cost thrice as much.

    Attributes:
        facts: What is known of it.
        excluded: Ids of workers that were tried already.
        standing: Whose it is and how urgent; a queue orders by it.
        token_ids: Its prompt as tokens, where the gateway has them and it is a single one.
        prompt: The same as another process has hashed it, which then sends no ids.
    """

    facts: RequestFacts
    excluded: frozenset[str] = frozenset()
    standing: Standing = ANYBODY
    token_ids: Sequence[int] | None = None
    prompt: TokenPrompt | None = None


@dataclass(slots=True)
class Pair:
    """The two workers of a request.

    Attributes:
        prefill: Computes the prompt.
        decode: Computes the answer.
        prefill_rank: Data-parallel rank of the prefill worker, 0 if it has one only.
        decode_rank: The same of the decode worker.
        prefill_trial: The request's place at the prefill worker, if its breaker is half open.
        decode_trial: The same of the decode worker.
    """

    prefill: Worker
    decode: Worker
    prefill_rank: int = 0
    decode_rank: int = 0
    prefill_trial: Trial | None = None
    decode_trial: Trial | None = None

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Whoever has a part in the request."""
        return self.prefill, self.decode

    def of(self, leg: Leg | None) -> tuple[Worker, Trial | None] | None:
        """Return who pays for a failure of this leg, with the request's place there."""
        if leg is None:
            return None
        if leg == "prefill":
            return self.prefill, self.prefill_trial
        return self.decode, self.decode_trial


@dataclass(slots=True)
class Grant:
    """A pair with its leases, to be given back by ``done``.

    Attributes:
        reason: Why this pair.
        n_prefills_left: Prefill legs that still run; the lease ends with the last of them.
        note: The scheduler's own.
        n_cached: Prompt tokens that prefill had in its cache, where the answer told.
    """

    ask: Ask
    pair: Pair
    prefill_lease: Lease
    decode_lease: Lease
    reason: Reason
    n_prefills_left: int = 1
    note: object = None
    n_cached: int | None = None
