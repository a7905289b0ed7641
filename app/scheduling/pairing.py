"""Which prefill workers and which decode workers may be paired."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from app.scheduling.pair_fit import PAIRING_LABEL, PairFacts, for_clients, misfit, pair_facts
from app.workers.worker import Role

if TYPE_CHECKING:
    from app.workers.registry import Snapshot
    from app.workers.worker import Worker

__all__ = [
    "PAIRING_LABEL",
    "PairGroup",
    "PairTable",
    "freest_rank",
    "pair_table",
    "share_a_model",
]

_MAX_REASONS = 3


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Workers of which any prefill one can hand over to any decode one; neither is empty.

    A prefill worker is in one group of a model only; a decode worker may be in several.
    """

    prefills: tuple[Worker, ...]
    decodes: tuple[Worker, ...]


class PairTable:
    """The pair groups of one snapshot; who fits whom is decided here, never for a request.

    Only models that a ready worker names get an entry, so made-up names cost no memory.

    Args:
        snapshot: The workers.
    """

    __slots__ = (
        "_by_model",
        "_facts",
        "_kinds",
        "_misfits",
        "_named",
        "_why",
        "_wildcard",
        "snapshot",
    )

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        # Workers that say the same of themselves are of one kind, and compared once.
        numbers: dict[PairFacts, int] = {}
        self._kinds = {
            worker.id: numbers.setdefault(pair_facts(worker.spec, worker.info), len(numbers))
            for worker in snapshot.workers
        }
        self._facts = tuple(numbers)
        self._misfits: dict[tuple[int, int], str] = {}
        self._why: dict[tuple[str, ...], str] = {}
        self._by_model = {model: self._groups(model) for model in snapshot.model_ids()}
        # No client can name "" (an empty model name is no worker's), so it stands for the
        # workers that take any model.
        self._wildcard = self._groups("")
        self._named = tuple(groups for groups in self._by_model.values() if groups)

    def groups(self, model: str) -> tuple[PairGroup, ...]:
        """Return the groups that serve this model."""
        return self._by_model.get(model, self._wildcard)

    def partners(self, prefill: Worker, model: str | None) -> tuple[Worker, ...]:
        """Return the ready decode workers that this prefill worker can hand over to.

        The prefill worker itself need not be ready: it may have begun to drain since it was
        chosen, and keeps a KV cache that somebody must fetch.

        Args:
            prefill: The prefill worker.
            model: The model of the request; ``None`` if it names none.
        """
        fitting = self._fitting(prefill)
        return tuple(
            worker
            for worker in self.snapshot.candidates(Role.DECODE, model)
            if self._kinds[worker.id] in fitting
            and (model is not None or share_a_model(prefill, worker))
        )

    def choices(self) -> tuple[tuple[PairGroup, ...], ...]:
        """Return the groups of each model that has any, for a request that names none.

        A prefill and a decode worker must serve one and the same model, so the models are
        gone through one by one; workers that take any come last.
        """
        return (*self._named, self._wildcard) if self._wildcard else self._named

    def why_none(self, model: str | None = None) -> str:
        """Return why ready workers of a model do not fit, the most frequent reasons first.

        Empty if some fit, or if a role has no ready worker of the model. The text may be shown
        to clients: it names no address and no path.

        Args:
            model: ``None``: any model.
        """
        if self.choices() if model is None else self.groups(model):
            return ""
        if model is None:
            names = (*self._by_model, "")
        else:
            names = (model if model in self._by_model else "",)
        if names not in self._why:
            reasons = sum((self._reasons(name) for name in names), Counter[str]())
            shown = [reason for reason, _ in reasons.most_common(_MAX_REASONS)]
            n_more = len(reasons) - len(shown)
            self._why[names] = "; ".join(shown) + (f"; {n_more} more reasons" if n_more else "")
        return self._why[names]

    def _fitting(self, prefill: Worker) -> set[int]:
        """Return the kinds of workers that a prefill worker fits."""
        kind = self._kinds.get(prefill.id)
        if kind is not None:
            return {other for other in range(len(self._facts)) if not self._misfit(kind, other)}
        # It was removed since it was chosen.
        facts = pair_facts(prefill.spec, prefill.info)
        return {other for other, theirs in enumerate(self._facts) if not misfit(facts, theirs)}

    def _misfit(self, prefill: int, decode: int) -> str:
        both = (prefill, decode)
        found = self._misfits.get(both)
        if found is None:
            found = self._misfits[both] = misfit(self._facts[prefill], self._facts[decode])
        return found

    def _by_kind(self, role: Role, model: str) -> dict[int, list[Worker]]:
        kinds: dict[int, list[Worker]] = {}
        for worker in self.snapshot.candidates(role, model):
            kinds.setdefault(self._kinds[worker.id], []).append(worker)
        return kinds

    def _groups(self, model: str) -> tuple[PairGroup, ...]:
        decodes = self._by_kind(Role.DECODE, model)
        groups: dict[frozenset[int], list[Worker]] = {}
        for kind, members in self._by_kind(Role.PREFILL, model).items():
            # Fitting is no equivalence: who says little fits workers that do not fit each
            # other. So a group is made of the prefill workers that fit the same decode workers.
            fitting = frozenset(other for other in decodes if not self._misfit(kind, other))
            if fitting:
                groups.setdefault(fitting, []).extend(members)
        everyone = self.snapshot.candidates(Role.DECODE, model)
        return tuple(
            PairGroup(
                tuple(members),
                tuple(worker for worker in everyone if self._kinds[worker.id] in fitting),
            )
            for fitting, members in groups.items()
        )

    def _reasons(self, model: str) -> Counter[str]:
        reasons: Counter[str] = Counter()
        decodes = self._by_kind(Role.DECODE, model)
        for kind, prefills in self._by_kind(Role.PREFILL, model).items():
            for other, members in decodes.items():
                reasons[for_clients(self._misfit(kind, other))] += len(prefills) * len(members)
        reasons.pop("", None)
        return reasons


def share_a_model(one: Worker, other: Worker) -> bool:
    """Tell whether there is a model that both serve."""
    if one.is_wildcard or other.is_wildcard:
        return True
    return not set(one.model_ids).isdisjoint(other.model_ids)


@lru_cache(maxsize=2)
def pair_table(snapshot: Snapshot) -> PairTable:
    """Return the table of a snapshot, for those who ask now and then: it is made once."""
    return PairTable(snapshot)


def freest_rank(worker: Worker, start: int) -> int:
    """Return the data-parallel rank with the fewest leases.

    Args:
        worker: The worker.
        start: Equal ranks are taken in turn, beginning at this one (modulo their number).
    """
    n_ranks = worker.info.dp_size
    if n_ranks <= 1:
        return 0
    if (only := worker.spec.dp_rank) is not None:
        return only
    leases = worker.rank_leases
    return min(
        ((start + offset) % n_ranks for offset in range(n_ranks)), key=lambda rank: leases[rank]
    )
