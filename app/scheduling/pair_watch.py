"""Warns of workers that are ready and fit nobody: they get no request, and look healthy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from app.scheduling.pair_fit import misfit, pair_facts
from app.scheduling.pairing import share_a_model
from app.workers.states import State
from app.workers.worker import Role

if TYPE_CHECKING:
    from app.workers.registry import Registry
    from app.workers.worker import Worker

    Warn = Callable[[Worker, str], None]

_OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}
_EVENTS = frozenset({"state", "info", "spec"})


def _log_warning(worker: Worker, reason: str) -> None:
    structlog.get_logger("tandem.workers").warning(
        "worker_without_partner",
        worker=worker.spec.address,
        role=str(worker.spec.role),
        reason=reason,
    )


class PairWatch:
    """Looks at a worker whenever it changes; says the same thing of it once.

    Nothing is said while the other role has no ready worker of a common model: then the fleet is
    not complete, which ``/readiness`` tells.

    Args:
        registry: The workers.
        warn: Told of a worker, and the difference from the first worker that it does not fit.
    """

    def __init__(self, registry: Registry, warn: Warn = _log_warning) -> None:
        self._registry = registry
        self._warn = warn
        self._said: dict[str, str] = {}
        registry.subscribe(self._on_event)

    def _on_event(self, event: str, worker: Worker) -> None:
        if event == "removed":
            self._said.pop(worker.id, None)
        elif event in _EVENTS and worker.state is State.READY:
            reason = self._why_alone(worker)
            if reason != self._said.get(worker.id, ""):
                self._said[worker.id] = reason
                if reason:
                    self._warn(worker, reason)

    def _why_alone(self, worker: Worker) -> str:
        other_role = _OTHER.get(worker.spec.role)
        if other_role is None:
            return ""
        first = ""
        own = pair_facts(worker.spec, worker.info)
        for other in self._registry.snapshot().candidates(other_role, None):
            if not share_a_model(worker, other):
                continue
            facts = pair_facts(other.spec, other.info)
            both = (own, facts) if other_role is Role.DECODE else (facts, own)
            reason = misfit(*both)
            if not reason:
                return ""
            first = first or reason
        return first
