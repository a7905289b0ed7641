"""Which models can be served now, and what is missing where none can."""

from __future__ import annotations

from app.scheduling.pairing import pair_table
from app.workers.registry import Registry, Snapshot
from app.workers.states import State
from app.workers.worker import Engine, Role, Worker


def ready_models(registry: Registry, *, decodes_alone: bool = False) -> tuple[str, ...]:
    """Returns the models that somebody can serve now, sorted.

    That is a ready prefill and a ready decode worker which fit together, see
    :mod:`app.scheduling.pair_fit`, or a regular worker.

    Args:
        registry: The workers.
        decodes_alone: A vLLM decode worker is enough.
    """
    table = pair_table(registry.snapshot())
    snapshot = table.snapshot
    return tuple(
        sorted(
            model
            for model in snapshot.model_ids()
            if table.groups(model) or _alone(snapshot, model, decodes_alone=decodes_alone)
        )
    )


def first_serving(registry: Registry, *, decodes_alone: bool = False) -> tuple[Worker, ...]:
    """Returns ready workers that can serve together: a pair, else one alone, else none."""
    pair = first_pair(registry)
    return pair or _alone(registry.snapshot(), None, decodes_alone=decodes_alone)[:1]


def _alone(snapshot: Snapshot, model: str | None, *, decodes_alone: bool) -> tuple[Worker, ...]:
    regulars = snapshot.candidates(Role.REGULAR, model)
    if regulars or not decodes_alone:
        return regulars
    decodes = snapshot.candidates(Role.DECODE, model)
    return tuple(worker for worker in decodes if worker.spec.engine is Engine.VLLM)


def first_pair(registry: Registry) -> tuple[Worker, Worker] | None:
    """Returns a ready prefill and a ready decode worker that fit together, if there are such."""
    for groups in pair_table(registry.snapshot()).choices():
        return groups[0].prefills[0], groups[0].decodes[0]
    return None


def what_is_missing(registry: Registry) -> str:
    """Returns a sentence on why nobody can serve; call when :func:`first_serving` gave none."""
    workers = registry.workers()
    lacks = []
    roles: tuple[Role, ...] = (Role.PREFILL, Role.DECODE)
    if any(worker.spec.role is Role.REGULAR for worker in workers):
        is_paired = any(worker.spec.role is not Role.REGULAR for worker in workers)
        roles = (*roles, Role.REGULAR) if is_paired else (Role.REGULAR,)
    for role in roles:
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
