"""Says why there is no pair for a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.errors import NoPairAvailable, UnknownModel
from app.scheduling.pairing import pair_table
from app.workers.states import State
from app.workers.worker import Role

if TYPE_CHECKING:
    from app.errors import GatewayError
    from app.workers.registry import Snapshot
    from app.workers.worker import Worker

_JOIN_GRACE_S = 30.0
"""For so long a worker that has not answered yet may turn out to serve an unknown model."""
_RETRY_AFTER_S = 1
_MAX_NAME_CHARS = 200


def refusal(
    snapshot: Snapshot, model: str | None, excluded: frozenset[str], now_s: float
) -> GatewayError:
    """Return the error for a request that no pair can take.

    ``UnknownModel`` when workers are registered and none knows the model, unless one of them
    joined just now and was not asked yet; else ``NoPairAvailable``, which names what lacks.

    Args:
        snapshot: The workers.
        model: What the request asked for; None: it named no model.
        excluded: Ids of workers that the request tried already.
        now_s: Time of the workers' clock.
    """
    workers = snapshot.workers
    if (
        model is not None
        and workers
        and not snapshot.knows_model(model)
        and not any(_may_yet_serve(worker, now_s) for worker in workers)
    ):
        return UnknownModel(
            f"The model '{model[:_MAX_NAME_CHARS]}' is not served here.", param="model"
        )
    of_model = "" if model is None else f" of model '{model[:_MAX_NAME_CHARS]}'"
    has_regulars = _has(workers, Role.REGULAR, model)
    is_paired = _has(workers, Role.PREFILL, model) or _has(workers, Role.DECODE, model)
    roles: tuple[Role, ...] = (Role.PREFILL, Role.DECODE)
    if has_regulars:
        roles = (*roles, Role.REGULAR) if is_paired else (Role.REGULAR,)
    lacks = [
        lack for role in roles if (lack := _lack(workers, role, model, of_model, excluded, now_s))
    ]
    if not lacks:
        why = pair_table(snapshot).why_none(model)
        lacks = [
            f"no prefill and decode worker{of_model} that fit together are ready"
            + (f" ({why})" if why else "")
        ]
    what = "worker" if has_regulars else "pair"
    return NoPairAvailable(
        f"No {what} is available: {'; '.join(lacks)}.", retry_after_s=_RETRY_AFTER_S
    )


def _lack(
    workers: tuple[Worker, ...],
    role: Role,
    model: str | None,
    of_model: str,
    excluded: frozenset[str],
    now_s: float,
) -> str:
    """Return what hinders all workers of a role, or nothing if one could take the request."""
    members = [
        worker for worker in workers if worker.spec.role is role and _may_serve(worker, model)
    ]
    if not members:
        return f"no {role} worker{of_model} is registered"
    ready = [worker for worker in members if worker.state is State.READY]
    if not ready:
        return f"no {role} worker{of_model} is ready ({len(members)} registered, 0 ready)"
    n_open = sum(not worker.breaker.allows(now_s) for worker in ready)
    n_tried = sum(worker.id in excluded for worker in ready if worker.breaker.allows(now_s))
    if n_open + n_tried < len(ready):
        return ""
    counts = [f"{len(members)} registered", f"{len(ready)} ready"]
    if n_open:
        counts.append(f"{n_open} with an open circuit")
    if n_tried:
        counts.append(f"{n_tried} tried already")
    return f"no {role} worker{of_model} can take it now ({', '.join(counts)})"


def _has(workers: tuple[Worker, ...], role: Role, model: str | None) -> bool:
    return any(worker.spec.role is role and _may_serve(worker, model) for worker in workers)


def _may_serve(worker: Worker, model: str | None) -> bool:
    if model is None or model in worker.model_ids or worker.is_wildcard:
        return True
    return not worker.model_ids and not worker.is_discovered


def _may_yet_serve(worker: Worker, now_s: float) -> bool:
    return (
        worker.state is State.JOINING
        and not worker.model_ids
        and not worker.is_discovered
        and now_s - worker.added_s < _JOIN_GRACE_S
    )
