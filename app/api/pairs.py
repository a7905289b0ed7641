"""Which models a whole pair stands ready for, and what is missing where none is."""

from __future__ import annotations

from app.scheduling.pairing import pair_table
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker


def ready_models(registry: Registry) -> tuple[str, ...]:
    """Returns the models that a ready prefill and a ready decode worker both serve, sorted.

    The two must fit together, see :mod:`app.scheduling.pair_fit`.
    """
    table = pair_table(registry.snapshot())
    return tuple(sorted(model for model in table.snapshot.model_ids() if table.groups(model)))


def first_pair(registry: Registry) -> tuple[Worker, Worker] | None:
    """Returns a ready prefill and a ready decode worker that fit together, if there are such."""
    for groups in pair_table(registry.snapshot()).choices():
        return groups[0].prefills[0], groups[0].decodes[0]
    return None


def what_is_missing(registry: Registry) -> str:
    """Returns a sentence on why no pair is ready; call when :func:`first_pair` gave none."""
    workers = registry.workers()
    lacks = []
    for role in (Role.PREFILL, Role.DECODE):
        members = [worker for worker in workers if worker.spec.role is role]
        n_ready = sum(worker.state is State.READY for worker in members)
        if not members:
            lacks.append(f"no {role} worker is registered")
        elif not n_ready:
            lacks.append(f"no {role} worker is ready ({len(members)} registered, 0 ready)")
    if lacks:
        return "; ".join(lacks)
    why = pair_table(registry.snapshot()).why_none()
    return "no model has both a ready prefill and a ready decode worker that fit together" + (
        f": {why}" if why else ""
    )
