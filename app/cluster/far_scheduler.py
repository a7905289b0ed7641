"""The scheduler of a pipe: the brain decides; while it is away, what this process knows does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.cluster.ask_words import Wants, read_reason, words_of
from app.cluster.link import BrainAway
from app.cluster.mirror import FarTrial
from app.scheduling.grant import Grant, Outcome, Pair
from app.scheduling.solo import SoloGrant
from app.workers.lease import Lease
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cluster.link import Link
    from app.errors import GatewayError
    from app.scheduling.grant import Ask
    from app.scheduling.scheduler import LocalScheduler
    from app.workers.registry import Registry
    from app.workers.worker import Worker


class FarScheduler:
    """Asks the brain for pairs.

    Leases are counted here too, on this process's own copies of the workers: by them it chooses
    while the brain is away, and by them it tells the next brain what it holds.

    Args:
        link: To the brain.
        registry: The copies.
        early: Chooses among them.

    Attributes:
        early: As above.
        wants: What of a prompt the brain needs; as it said last.
        n_early: Requests whose pair was chosen here.
    """

    def __init__(
        self,
        link: Link,
        registry: Registry,
        early: LocalScheduler,
    ) -> None:
        self._link = link
        self._registry = registry
        self.early = early
        self.wants = Wants()
        self._held: dict[int, Grant | SoloGrant] = {}
        self.n_early = 0

    def announce(self) -> None:
        """Tells a brain that has just come what this process holds."""
        for no, grant in self._held.items():
            self._link.tell("held", no, _leases(grant))

    async def ask(self, ask: Ask) -> Grant:
        """Return a pair with leases taken.

        Raises:
            GatewayError: As the brain's scheduler, or the early one's.
        """
        if self._link.is_up:
            no = next(self._link.numbers)
            try:
                told = await self._link.ask("ask", no, *words_of(ask, self.wants))
                return self._take(no, ask, told)
            except BrainAway:
                pass
            except asyncio.CancelledError:
                self._link.leave(no)
                raise
        grant = await self.early.ask(ask)
        self.n_early += 1
        self._note(grant)
        return grant

    def alone(self, ask: Ask, failure: GatewayError | None = None) -> SoloGrant | None:
        """Return one worker that is to serve the request without prefill, chosen here."""
        grant = self.early.alone(ask, failure)
        if grant is not None:
            self._note(grant)
        return grant

    def done(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Give all leases back; again is harmless."""
        self.early.done(grant, outcome)
        no, grant.note = grant.note, None
        if isinstance(no, int):
            del self._held[no]
            # Not ``value``: that is two calls.
            self._link.note("done", no, outcome._value_, grant.n_cached)

    def prefill_computed(self, grant: Grant) -> None:
        """Count prefill as no load any more; its worker keeps the KV cache until it has ended."""
        self.early.prefill_computed(grant)
        self._link.note("computed", grant.note)

    def prefill_ended(self, grant: Grant) -> None:
        """Give the prefill lease back; again is harmless."""
        self.early.prefill_ended(grant)
        self._link.note("prefilled", grant.note)

    def rebind_decode(self, grant: Grant, excluded: frozenset[str]) -> None:
        """Choose the grant's decode worker anew, if the brain's cannot be used any more.

        Raises:
            NoPairAvailable: There is none; the grant is as it was.
        """
        old = grant.pair.decode
        is_usable = old.state is State.READY and old.id not in excluded | grant.ask.excluded
        if is_usable and old.breaker.is_closed:
            return
        self.early.rebind_decode(grant, excluded)
        pair = grant.pair
        if pair.decode is not old:
            self._link.note("moved", grant.note, pair.decode.id, pair.decode_rank)

    def decodes_for(self, grant: Grant) -> Sequence[Worker]:
        """Return the decode workers that the grant's prefill worker can hand over to."""
        return self.early.decodes_for(grant)

    def close(self) -> None:
        """Nothing runs beside the requests."""

    def _note(self, grant: Grant | SoloGrant) -> None:
        no = grant.note = next(self._link.numbers)
        self._held[no] = grant
        self._link.note("held", no, _leases(grant))

    def _take(self, no: int, ask: Ask, granted: Any) -> Grant:
        """Makes a grant of the brain's words.

        Raises:
            BrainAway: It names a worker that this process does not know: one of the two is behind.
        """
        prefill_id, prefill_rank, is_prefill_trial, decode_id, decode_rank, is_trial, why = granted
        prefill, decode = self._registry.get(prefill_id), self._registry.get(decode_id)
        if prefill is None or decode is None:
            self._link.tell("done", no, Outcome.CANCELLED.value, None)
            raise BrainAway("The brain named a worker that is not known here.", retry_after_s=1)
        pair = Pair(
            prefill,
            decode,
            prefill_rank,
            decode_rank,
            FarTrial(no, "prefill") if is_prefill_trial else None,
            FarTrial(no, "decode") if is_trial else None,
        )
        grant = Grant(
            ask,
            pair,
            Lease(prefill, prefill_rank),
            Lease(decode, decode_rank),
            read_reason(why),
            note=no,
        )
        self._held[no] = grant
        return grant


def _leases(grant: Grant | SoloGrant) -> list[tuple[str, str, int, bool]]:
    """Returns leg, worker, rank, and whether only the KV cache is held, of each lease."""
    if isinstance(grant, SoloGrant):
        pairs = [("decode", grant.lease)]
    else:
        pairs = [("prefill", grant.prefill_lease), ("decode", grant.decode_lease)]
    return [
        (leg, lease.worker.id, lease.rank, lease.is_held)
        for leg, lease in pairs
        if not lease.is_released
    ]
