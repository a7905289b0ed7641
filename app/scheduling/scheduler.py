"""The scheduler: asked for a pair, it grants one and counts it until it is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from app.scheduling.grant import Ask, Grant, Outcome, Pair
from app.scheduling.pairing import PairTable, freest_rank
from app.scheduling.policy_slot import PolicySlot
from app.scheduling.reason import Reason
from app.scheduling.refusal import refusal
from app.scheduling.solo import SoloGrant
from app.scheduling.usable import usable, usable_groups
from app.workers.lease import Lease
from app.workers.states import State
from app.workers.worker import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.clock import Clock
    from app.errors import GatewayError
    from app.policies.base import Policy
    from app.scheduling.reason import Choice, Queued
    from app.scheduling.solo_chooser import SoloChooser
    from app.scheduling.usable import UsableGroup
    from app.workers.registry import Registry
    from app.workers.worker import Worker

__all__ = ["Ask", "Grant", "LocalScheduler", "Outcome", "Pair", "Scheduler"]


class Scheduler(Protocol):
    """Grants pairs; in this process or elsewhere."""

    async def ask(self, ask: Ask) -> Grant:
        """Return a pair with leases taken; it may take a while."""

    def alone(self, ask: Ask, failure: GatewayError | None = None) -> SoloGrant | None:
        """Return one worker that is to serve the request without prefill, if there is one."""

    def done(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Give all leases back; again is harmless."""

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
        solos: Chooses who serves without prefill; ``None``: nobody does.

    Attributes:
        slots: The policy of each role, which may be changed.
    """

    def __init__(
        self,
        registry: Registry,
        prefill_policy: Policy,
        decode_policy: Policy,
        now_s: Clock = time.monotonic,
        solos: SoloChooser | None = None,
    ) -> None:
        self._registry = registry
        self._prefill, self._decode = PolicySlot(prefill_policy), PolicySlot(decode_policy)
        self.slots = {Role.PREFILL: self._prefill, Role.DECODE: self._decode}
        if solos is not None:
            self.slots[Role.REGULAR] = solos.slot
        self._now_s = now_s
        self._solos = solos
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
            prefill = self._prefill.choose(prefills, ask.facts)
        else:
            everyone = [worker for members, _ in groups for worker in members]
            prefill = self._prefill.choose(everyone, ask.facts)
            decodes = next(partners for members, partners in groups if prefill in members)
        rank = freest_rank(prefill, self._n_granted + 1)
        return self.grant(ask, prefill, rank, decodes, self._prefill.last)

    def alone(self, ask: Ask, failure: GatewayError | None = None) -> SoloGrant | None:
        """Choose one worker to serve the request without prefill, if there is to be one.

        Args:
            ask: The request.
            failure: Why there is no pair for it; ``None``: nobody has looked for one yet.

        Raises:
            NoPairAvailable: There is none, and what the operator wants then cannot be done.
        """
        if self._solos is None:
            return None
        return self._solos.choose(ask, self._fresh_table(), failure)

    def usable_groups(self, ask: Ask) -> list[UsableGroup]:
        """Return the groups of workers that could take a request now, one at least.

        Raises:
            UnknownModel: Workers are registered and none serves the model.
            NoPairAvailable: No prefill or no decode worker can take it now.
        """
        table = self._fresh_table()
        now_s, troubles = self._now_s(), self._registry.troubles
        model = ask.facts.model
        if model is not None:
            found = usable_groups(table.groups(model), ask.excluded, now_s, troubles)
        else:
            found = []
            for groups in table.choices():
                found = usable_groups(groups, ask.excluded, now_s, troubles)
                if found:
                    break
        if not found:
            raise refusal(table.snapshot, model, ask.excluded, now_s)
        return found

    def grant(
        self,
        ask: Ask,
        prefill: Worker,
        prefill_rank: int,
        decodes: Sequence[Worker],
        choice: Choice,
        queued: Queued | None = None,
    ) -> Grant:
        """Join a prefill rank with one of the decode workers and take both leases.

        Nothing awaits between choosing and counting, so no two asks see the same load.
        """
        decode = self._decode.choose(decodes, ask.facts)
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
        reason = Reason(choice, self._decode.last, prefill_rank, decode_rank, queued)
        return Grant(ask, pair, Lease(prefill, prefill_rank), Lease(decode, decode_rank), reason)

    def done(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Give all leases back; again is harmless."""
        if self._solos is not None:
            self._solos.note(grant, outcome)
        if isinstance(grant, SoloGrant):
            grant.end()
            return
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
        partners = table.partners(pair.prefill, model)
        found = usable(partners, excluded, now_s, self._registry.troubles)
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
        decode = pair.decode = self._decode.choose(found, grant.ask.facts)
        pair.decode_trial = None if decode.breaker.is_closed else decode.breaker.start_trial()
        self._n_granted += 1
        pair.decode_rank = freest_rank(decode, self._n_granted)
        grant.decode_lease = Lease(decode, pair.decode_rank)
        grant.reason = grant.reason._replace(decode=self._decode.last, decode_rank=pair.decode_rank)

    def decodes_for(self, grant: Grant) -> Sequence[Worker]:
        """Return the decode workers that the grant's prefill worker can hand over to.

        The grant's own stands first, or last if it cannot be used now; the others can be.
        """
        table, own = self._fresh_table(), grant.pair.decode
        partners = table.partners(grant.pair.prefill, grant.ask.facts.model)
        found = usable(partners, frozenset(), self._now_s(), self._registry.troubles)
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
        if event in ("removed", "restarted", "flushed"):
            self._prefill.forget(worker.id)
            self._decode.forget(worker.id)
            if self._solos is not None:
                self._solos.forget(worker)
