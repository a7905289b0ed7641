"""How a new brain gets the registry of the one before it: from a pipe's copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cluster.worker_copy import take_pulse
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.cluster.worker_copy import WorkerCopy
    from app.workers.drain import Drain
    from app.workers.registry import Registry


def restore(registry: Registry, drain: Drain, copies: Iterable[WorkerCopy]) -> None:
    """Adds the workers as they were: a ready one is ready at once.

    Nobody needs to be asked again: what was true a moment ago is as true as after a probe, and
    the health loop looks at all of them soon.

    Args:
        registry: An empty one.
        drain: Takes on those that were on their way out, with a time limit that begins anew.
        copies: The workers.
    """
    for copy in copies:
        worker = registry.add(copy.spec)
        if copy.is_discovered:
            registry.set_info(worker, copy.info)
        worker.is_overdue = copy.is_overdue
        take_pulse(worker, copy.pulse)
        if copy.state is State.JOINING:
            continue
        registry.set_state(worker, State.READY, copy.reason)
        if copy.state is State.UNHEALTHY:
            registry.set_state(worker, State.UNHEALTHY, copy.reason)
        elif copy.state is State.DRAINING:
            drain.start(worker, "begun before the brain was started anew")
