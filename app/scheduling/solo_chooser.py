"""Who serves a request without a prefill worker, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.errors import NoPairAvailable
from app.scheduling.grant import Outcome
from app.scheduling.pairing import freest_rank
from app.scheduling.policy_slot import PolicySlot
from app.scheduling.skip_rule import CachedPrompts, LoadGate, SkipRule
from app.scheduling.solo import Solo, SoloCounts, SoloGrant, Why
from app.scheduling.usable import usable, usable_groups
from app.workers.lease import Lease
from app.workers.worker import Engine, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.clock import Clock
    from app.errors import GatewayError
    from app.policies.base import Policy
    from app.scheduling.grant import Ask, Grant
    from app.scheduling.pairing import PairGroup, PairTable
    from app.workers.registry import Snapshot
    from app.workers.troubles import Troubles
    from app.workers.worker import Worker

    Tell = Callable[[str, bool], None]


def _log(model: str, is_missing: bool) -> None:
    log = structlog.get_logger("tandem.scheduling")
    if is_missing:
        log.warning("no_prefill_worker", model=model or None, reason="decode serves alone")
    else:
        log.info("prefill_workers_are_back", model=model or None)


class SoloChooser:
    """Chooses regular workers, and decode workers that compute prompts themselves.

    Args:
        policy: Chooses among them.
        now_s: The clock of the workers.
        rule: Which requests need no prefill worker though there is one.
        decodes_alone: Decode workers that can (vLLM) serve where no prefill worker can be used.
        counts: Of what it grants.
        tell: Called with a model once it has no prefill worker, and once it has one again.

    Attributes:
        slot: The policy, which may be changed.
    """

    def __init__(
        self,
        policy: Policy,
        now_s: Clock,
        rule: SkipRule,
        *,
        decodes_alone: bool,
        counts: SoloCounts,
        tell: Tell = _log,
    ) -> None:
        self.slot = PolicySlot(policy)
        self._now_s = now_s
        self._rule = rule
        self._decodes_alone = decodes_alone
        self._counts = counts
        self._tell = tell
        self._gate = LoadGate(rule.max_load)
        self._cached = CachedPrompts() if rule.below_tokens else None
        self._snapshot: Snapshot | None = None
        self._is_idle = True
        self._able: dict[str | None, tuple[Worker, ...]] = {}
        self._missing: set[str] = set()
        self._n_granted = 0

    def choose(self, ask: Ask, table: PairTable, failure: GatewayError | None) -> SoloGrant | None:
        """Choose one worker for a request and take its lease.

        Args:
            ask: The request.
            table: The pairs of the workers as they are.
            failure: Why no pair can take it, or not in time; ``None``: none was asked for yet.

        Returns:
            Nothing if a pair is to serve, or if there is nobody.

        Raises:
            NoPairAvailable: There are decode workers only, and they cannot compute prompts.
        """
        if table.snapshot is not self._snapshot:
            self._look(table.snapshot)
        if self._is_idle:
            return None
        now_s, troubles = self._now_s(), table.snapshot.troubles
        model = ask.facts.model
        groups = table.groups(model) if model is not None else sum(table.choices(), ())
        regulars = table.snapshot.candidates(Role.REGULAR, model)
        if failure is None and groups:
            if self._missing:
                self._look_for_prefill(ask, table, groups, now_s)
            if not regulars or not _are_full(groups, ask.excluded, now_s, troubles):
                return self._skip(ask, now_s, troubles)
            regulars = tuple(worker for worker in regulars if not worker.is_full(now_s))
        if found := usable(regulars, ask.excluded, now_s, troubles):
            return self._grant(ask, self.slot.choose(found, ask.facts), Why.NO_PAIR)
        if isinstance(failure, NoPairAvailable) or (failure is None and not groups):
            return self._without_prefill(ask, table.snapshot, failure, now_s)
        # There are prefill workers; they have too much to do.
        return None

    def note(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Learn where a prompt is cached now."""
        if self._cached is None or outcome is not Outcome.OK:
            return
        worker = grant.solo.worker if isinstance(grant, SoloGrant) else grant.pair.decode
        if _computes_prompts(worker):
            self._cached.note(worker, grant.ask.facts)

    def forget(self, worker: Worker) -> None:
        """Drop what is known of a worker that was removed or started anew."""
        self.slot.forget(worker.id)
        self._gate.forget(worker.id)
        if self._cached is not None:
            self._cached.forget(worker.id)

    def _look(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._able = {}
        has_able = bool(snapshot.candidates(Role.REGULAR, None)) or (
            self._cached is not None
            and any(_computes_prompts(w) for w in snapshot.candidates(Role.DECODE, None))
        )
        self._is_idle = not has_able and not self._decodes_alone

    def _skip(self, ask: Ask, now_s: float, troubles: Troubles) -> SoloGrant | None:
        """Choose for a request that a pair could take, too."""
        if self._cached is None:
            return None
        facts, rule = ask.facts, self._rule
        able = self._able_workers(facts.model)
        ready = [
            worker
            for worker in usable(able, ask.excluded, now_s, troubles)
            if not worker.is_full(now_s) and self._gate.is_open(worker)
        ]
        if not ready:
            return None
        n_tokens = facts.n_prompt_tokens
        if rule.is_short(n_tokens):
            return self._grant(ask, self.slot.choose(ready, facts), Why.SHORT)
        n_uncached = self._cached.n_uncached(ready, facts)
        best = min(range(len(ready)), key=lambda i: (n_uncached[i], ready[i].n_leases))
        if rule.is_cached(n_tokens, n_uncached[best]):
            return self._grant(ask, ready[best], Why.CACHED)
        return None

    def _able_workers(self, model: str | None) -> tuple[Worker, ...]:
        snapshot = self._snapshot
        if snapshot is None:
            return ()
        # Made-up names share one entry: the workers that take any model.
        key = model if model is None or model in snapshot.model_ids() else ""
        found = self._able.get(key)
        if found is None:
            decodes = snapshot.candidates(Role.DECODE, key)
            found = self._able[key] = (
                *snapshot.candidates(Role.REGULAR, key),
                *(worker for worker in decodes if _computes_prompts(worker)),
            )
        return found

    def _without_prefill(
        self, ask: Ask, snapshot: Snapshot, failure: GatewayError | None, now_s: float
    ) -> SoloGrant | None:
        if not self._decodes_alone:
            return None
        model = ask.facts.model
        named = snapshot.candidates(Role.DECODE, model)
        decodes = usable(named, ask.excluded, now_s, snapshot.troubles)
        able = [worker for worker in decodes if worker.spec.engine is Engine.VLLM]
        if able:
            key = model if model is not None and model in snapshot.model_ids() else ""
            if key not in self._missing:
                self._missing.add(key)
                self._tell(key, True)
            return self._grant(ask, self.slot.choose(able, ask.facts), Why.MISSING_PREFILL)
        if decodes and failure is not None:
            raise NoPairAvailable(
                f"{failure.message} SGLang decode workers cannot compute prompts, so "
                "--on-missing-prefill decode_only does not help.",
                retry_after_s=failure.retry_after_s,
            )
        return None

    def _look_for_prefill(
        self, ask: Ask, table: PairTable, groups: Sequence[PairGroup], now_s: float
    ) -> None:
        """Tell that a model has a usable pair again, if it had none."""
        model = ask.facts.model
        key = model if model is not None and model in table.snapshot.model_ids() else ""
        if key not in self._missing:
            return
        if usable_groups(groups, ask.excluded, now_s, table.snapshot.troubles):
            self._missing.discard(key)
            self._tell(key, False)

    def _grant(self, ask: Ask, worker: Worker, why: Why) -> SoloGrant:
        self._counts.add(why)
        self._n_granted += 1
        rank = freest_rank(worker, self._n_granted)
        trial = None if worker.breaker.is_closed else worker.breaker.start_trial()
        # Where most of the prompt is cached no policy is asked.
        choice = None if why is Why.CACHED else self.slot.last
        return SoloGrant(ask, Solo(worker, why, rank, trial), Lease(worker, rank), choice)


def _are_full(
    groups: Sequence[PairGroup], excluded: frozenset[str], now_s: float, troubles: Troubles
) -> bool:
    """Whether there are pairs, and each has a half that said that it is full."""
    found = usable_groups(groups, excluded, now_s, troubles)
    # Full workers are only named where there are no others.
    return bool(found) and all(
        prefills[0].is_full(now_s) or decodes[0].is_full(now_s) for prefills, decodes in found
    )


def _computes_prompts(worker: Worker) -> bool:
    """Whether a worker is made for both phases: a regular one, or vLLM's ``kv_both``."""
    if worker.spec.role is Role.REGULAR:
        return True
    facts = worker.info.vllm
    return worker.spec.role is Role.DECODE and facts is not None and facts.kv_role == "kv_both"
