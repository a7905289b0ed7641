"""Which prefill workers and which decode workers may be paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.workers.worker import Role

if TYPE_CHECKING:
    from app.workers.registry import Snapshot
    from app.workers.worker import Engine, Worker

PAIRING_LABEL = "pairing"
"""Workers that carry this label are paired only with workers of the same value."""


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Workers of which any prefill one can hand over to any decode one; neither is empty."""

    prefills: tuple[Worker, ...]
    decodes: tuple[Worker, ...]


class PairTable:
    """The pair groups of one snapshot, worked out when first asked for.

    Only models that a ready worker names get an entry, so made-up names cost no memory.

    Args:
        snapshot: The workers.
    """

    __slots__ = ("_by_model", "_named", "_wildcard", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._by_model = {model: _groups(snapshot, model) for model in snapshot.model_ids()}
        # No client can name "" (an empty model name is no worker's), so it stands for the
        # workers that take any model.
        self._wildcard = _groups(snapshot, "")
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
        kind = _kind(prefill)
        return tuple(
            worker
            for worker in self.snapshot.candidates(Role.DECODE, model)
            if _kind(worker) == kind and (model is not None or _may_share(prefill, worker))
        )

    def choices(self) -> tuple[tuple[PairGroup, ...], ...]:
        """Return the groups of each model that has any, for a request that names none.

        A prefill and a decode worker must serve one and the same model, so the models are
        gone through one by one; workers that take any come last.
        """
        return (*self._named, self._wildcard) if self._wildcard else self._named


def _groups(snapshot: Snapshot, model: str) -> tuple[PairGroup, ...]:
    prefills: dict[tuple[Engine, str, str], list[Worker]] = {}
    decodes: dict[tuple[Engine, str, str], list[Worker]] = {}
    for role, found in ((Role.PREFILL, prefills), (Role.DECODE, decodes)):
        for worker in snapshot.candidates(role, model):
            found.setdefault(_kind(worker), []).append(worker)
    return tuple(
        PairGroup(tuple(members), tuple(decodes[kind]))
        for kind, members in prefills.items()
        if kind in decodes
    )


def _may_share(one: Worker, other: Worker) -> bool:
    if one.is_wildcard or other.is_wildcard:
        return True
    return not set(one.model_ids).isdisjoint(other.model_ids)


def _kind(worker: Worker) -> tuple[Engine, str, str]:
    spec, vllm = worker.spec, worker.info.vllm
    connector = vllm.kv_connector if vllm is not None else ""
    return spec.engine, spec.labels.get(PAIRING_LABEL, ""), connector


def freest_rank(worker: Worker, start: int) -> int:
    """Return the data-parallel rank with the fewest leases.

    Args:
        worker: The worker.
        start: Equal ranks are taken in turn, beginning at this one (modulo their number).
    """
    n_ranks = worker.info.dp_size
    if n_ranks <= 1:
        return 0
    leases = worker.rank_leases
    return min(
        ((start + offset) % n_ranks for offset in range(n_ranks)), key=lambda rank: leases[rank]
    )
