"""The scheduler: asked for a pair, it grants one and counts it until it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from app.scheduling.pairing import PairTable, freest_rank
from app.scheduling.refusal import refusal
from app.scheduling.standing import ANYBODY, Standing
from app.scheduling.usable import usable, usable_groups
from app.workers.lease import Lease
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.clock import Clock
    from app.policies.base import Policy
    from app.protocol.facts import RequestFacts
    from app.scheduling.usable import UsableGroup
    from app.workers.breaker import Trial
    from app.workers.registry import Registry
    from app.workers.worker import Worker


class Outcome(StrEnum):
    """How a granted request ended."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants a pair.

    Attributes:
        facts: What is known of it.
        excluded: Ids of workers that were tried already.
        standing: Whose it is and how urgent; a queue orders by it.
    """

    facts: RequestFacts
    excluded: frozenset[str] = frozenset()
    standing: Standing = ANYBODY


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


@dataclass(slots=True)
class Grant:
    """A pair with its leases, to be given back by ``done``.

    Attributes:
        n_prefills_left: Prefill legs that still run; the lease ends with the last of them.
        note: The scheduler's own.
    """

    ask: Ask
    pair: Pair
    prefill_lease: Lease
    decode_lease: Lease
    n_prefills_left: int = 1
    note: object = None


class Scheduler(Protocol):
    """Grants pairs; in this process or elsewhere."""

    async def ask(self, ask: Ask) -> Grant:
        """Return a pair with leases taken; it may take a while."""

    def done(self, grant: Grant, outcome: Outcome) -> None:
        """Give both leases back; again is harmless."""

    def prefill_computed(self, grant: Grant) -> None:
        """Count prefill as no load any more; its worker keeps the KV cache until it has ended."""

    def prefill_ended(self, grant: Grant) -> None:
        """Give the prefill lease back; again is harmless."""

    def rebind_decode(self, grant: Grant, excluded: frozenset[str]) -> None:
        """Choose the grant's decode worker anew, now that it is needed."""

    def decodes_for(self, grant: Grant) -> Sequence[Worker]:
        """Return the decode workers that the grant's prefill worker can hand over to."""

    def close(self) -> None:
        """End what runs beside the requests."""


class LocalScheduler:
    """Chooses at once, by one policy for each role.

    Args:
        registry: The workers.
        prefill_policy: Chooses among prefill workers.
        decode_policy: Chooses among the decode workers that fit.
        now_s: The clock of the registry's workers.
    """

    def __init__(
        self,
        registry: Registry,
        prefill_policy: Policy,
        decode_policy: Policy,
        now_s: Clock = time.monotonic,
    ) -> None:
        self._registry = registry
        self._prefill_policy = prefill_policy
        self._decode_policy = decode_policy
        self._now_s = now_s
        self._table = PairTable(registry.snapshot())
        self._n_granted = 0
        registry.subscribe(self._on_event)

    async def ask(self, ask: Ask) -> Grant:
        """Choose a pair and take its leases.

        Raises:
            UnknownModel: Workers are registered and none serves the model.
            NoPairAvailable: No prefill or no decode worker can take it now.
        """
        groups = self.usable_groups(ask)
        prefills, decodes = groups[0]
        if len(groups) == 1:
            prefill = self._prefill_policy.choose(prefills, ask.facts)
        else:
            everyone = [worker for members, _ in groups for worker in members]
            prefill = self._prefill_policy.choose(everyone, ask.facts)
            decodes = next(partners for members, partners in groups if prefill in members)
        return self.grant(ask, prefill, freest_rank(prefill, self._n_granted + 1), decodes)

    def usable_groups(self, ask: Ask) -> list[UsableGroup]:
        """Return the groups of workers that could take a request now, one at least.

        Raises:
            UnknownModel: Workers are registered and none serves the model.
            NoPairAvailable: No prefill or no decode worker can take it now.
        """
        table = self._fresh_table()
        now_s = self._now_s()
        model = ask.facts.model
        if model is not None:
            found = usable_groups(table.groups(model), ask.excluded, now_s)
        else:
            found = []
            for groups in table.choices():
                found = usable_groups(groups, ask.excluded, now_s)
                if found:
                    break
        if not found:
            raise refusal(table.snapshot, model, ask.excluded, now_s)
        return found

    def grant(
        self, ask: Ask, prefill: Worker, prefill_rank: int, decodes: Sequence[Worker]
    ) -> Grant:
        """Join a prefill rank with one of the decode workers and take both leases.

        Nothing awaits between choosing and counting, so no two asks see the same load.
        """
        decode = self._decode_policy.choose(decodes, ask.facts)
        self._n_granted += 1
        decode_rank = freest_rank(decode, self._n_granted)
        pair = Pair(
            prefill,
            decode,
            prefill_rank,
            decode_rank,
            None if prefill.breaker.is_closed else prefill.breaker.start_trial(),
            None if decode.breaker.is_closed else decode.breaker.start_trial(),
        )
        return Grant(ask, pair, Lease(prefill, prefill_rank), Lease(decode, decode_rank))

    def done(self, grant: Grant, outcome: Outcome) -> None:  # noqa: ARG002 - others read it
        """Give both leases back; again is harmless."""
        grant.prefill_lease.release()
        grant.decode_lease.release()
        pair = grant.pair
        for trial in (pair.prefill_trial, pair.decode_trial):
            if trial is not None:
                trial.end()

    def prefill_computed(self, grant: Grant) -> None:
        """Count prefill as no load any more; its worker keeps the KV cache until it has ended."""
        grant.prefill_lease.hold()

    def prefill_ended(self, grant: Grant) -> None:
        """Give the prefill lease back; again is harmless."""
        grant.prefill_lease.release()

    def rebind_decode(self, grant: Grant, excluded: frozenset[str]) -> None:
        """Choose the grant's decode worker anew, of those that fit its prefill worker.

        One that is still among the least busy stays: so each request takes one turn of a policy
        and one of a rank. So does one whose breaker is half open: its trial is this request. And
        so does one that takes no new request, if there is no other: this one is not new. The
        lease moves along, unless the grant was given back already.

        Args:
            grant: Its prefill worker stays.
            excluded: Ids of decode workers that were tried already; those that the grant was not
                to have are left out too.

        Raises:
            NoPairAvailable: There is no such worker; the grant is as it was.
        """
        table, now_s = self._fresh_table(), self._now_s()
        pair, model = grant.pair, grant.ask.facts.model
        excluded |= grant.ask.excluded
        may_stay = pair.decode.id not in excluded and pair.decode.state is not State.GONE
        if may_stay and pair.decode_trial is not None:
            return
        found = usable(table.partners(pair.prefill, model), excluded, now_s)
        if not found:
            if may_stay:
                return
            raise refusal(table.snapshot, model, excluded, now_s)
        if grant.decode_lease.is_released:
            return
        n_others = pair.decode.n_leases - 1
        if pair.decode in found and all(worker.n_leases >= n_others for worker in found):
            return
        grant.decode_lease.release()
        if pair.decode_trial is not None:
            pair.decode_trial.end()
        decode = pair.decode = self._decode_policy.choose(found, grant.ask.facts)
        pair.decode_trial = None if decode.breaker.is_closed else decode.breaker.start_trial()
        self._n_granted += 1
        pair.decode_rank = freest_rank(decode, self._n_granted)
        grant.decode_lease = Lease(decode, pair.decode_rank)

    def decodes_for(self, grant: Grant) -> Sequence[Worker]:
        """Return the decode workers that the grant's prefill worker can hand over to.

        The grant's own stands first, or last if it cannot be used now; the others can be.
        """
        table, own = self._fresh_table(), grant.pair.decode
        partners = table.partners(grant.pair.prefill, grant.ask.facts.model)
        found = usable(partners, frozenset(), self._now_s())
        others = [worker for worker in found if worker is not own]
        return [own, *others] if own in found else [*others, own]

    def close(self) -> None:
        """Nothing runs beside the requests."""

    def _fresh_table(self) -> PairTable:
        snapshot = self._registry.snapshot()
        if self._table.snapshot is not snapshot:
            self._table = PairTable(snapshot)
        return self._table

    def _on_event(self, event: str, worker: Worker) -> None:
        if event in ("removed", "restarted"):
            self._prefill_policy.forget(worker.id)
            self._decode_policy.forget(worker.id)
