"""What the brain tells of a worker, and how a pipe takes it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from app.workers.states import State
    from app.workers.worker import Worker, WorkerInfo, WorkerSpec

Revision = tuple[int, int]
"""The brain's epoch, and its changes of the registry since it began: the greater one is newer."""

NEVER: Revision = (0, 0)


class Pulse(NamedTuple):
    """What of a worker changes without a change of the registry.

    Times are of the monotonic clock, which the processes of a machine share.
    """

    worker_id: str
    is_closed: bool
    opened_s: float
    capacity_until_s: float
    n_failures: int


class WorkerCopy(NamedTuple):
    """One worker as the brain has it."""

    spec: WorkerSpec
    info: WorkerInfo
    state: State
    reason: str
    is_discovered: bool
    is_overdue: bool
    pulse: Pulse


def pulse_of(worker: Worker) -> Pulse:
    """Returns what is live of a worker."""
    breaker = worker.breaker
    opened_s = 0.0 if breaker.is_closed else breaker.opened_s
    return Pulse(worker.id, breaker.is_closed, opened_s, worker.capacity_until_s, worker.n_failures)


def copy_of(worker: Worker) -> WorkerCopy:
    """Returns all that another process needs to know of a worker."""
    return WorkerCopy(
        worker.spec,
        worker.info,
        worker.state,
        worker.state_reason,
        worker.is_discovered,
        worker.is_overdue,
        pulse_of(worker),
    )


def take_pulse(worker: Worker, pulse: Pulse) -> None:
    """Makes a worker's live part that of the copy."""
    worker.breaker.take_over(is_closed=pulse.is_closed, opened_s=pulse.opened_s)
    worker.be_full_until(pulse.capacity_until_s)
    worker.n_failures = pulse.n_failures
