"""The parts of a worker's view that tell how it fares: state, probes, breaker, drain, job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.workers.drain import Draining
from app.workers.states import State
from app.workers.worker import Worker

_STATUS = {
    State.JOINING: "pending",
    State.READY: "ready",
    State.UNHEALTHY: "not_ready",
    State.DRAINING: "draining",
    State.GONE: "failed",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment by both clocks.

    Attributes:
        now_s: By the gateway's own clock, in which everything is noted.
        unix_s: By the time of day.
    """

    now_s: float
    unix_s: float

    def unix(self, at_s: float) -> float:
        """Return a time of the gateway's clock as Unix seconds, to the millisecond."""
        return round(self.unix_s - (self.now_s - at_s), 3)


def state_view(worker: Worker, moment: Moment, draining: Draining | None, n_open: int) -> Any:
    """Returns the members that change by themselves.

    Args:
        worker: The worker.
        moment: Now.
        draining: Its removal, if it is under way.
        n_open: Calls that are open on it.
    """
    is_overdue = worker.state is State.JOINING and worker.is_overdue
    shown: dict[str, Any] = {
        "is_healthy": worker.state is State.READY,
        "status": "failed" if is_overdue else _STATUS[worker.state],
        "status_reason": worker.state_reason,
        "status_since": moment.unix(worker.state_since_s),
    }
    if worker.last_error and worker.last_error_s is not None:
        shown["last_error"] = {
            "message": worker.last_error,
            "at": moment.unix(worker.last_error_s),
        }
    shown |= _probes(worker, moment)
    shown["breaker"] = _breaker(worker, moment)
    if worker.is_full(moment.now_s):
        shown["full_until"] = moment.unix(worker.capacity_until_s)
    shown["load"] = worker.load
    if worker.info.dp_size > 1:
        shown["rank_loads"] = worker.rank_leases[: worker.info.dp_size]
    if draining is not None:
        shown["draining"] = {
            "since": moment.unix(draining.since_s),
            "deadline": moment.unix(draining.deadline_s),
            "leases_left": worker.n_leases,
            "kv_held": worker.n_held,
            "calls_open": n_open,
            "ended": draining.n_ended,
        }
    if worker.state in (State.JOINING, State.DRAINING):
        shown["job_status"] = _job(worker, moment)
    return shown


def _probes(worker: Worker, moment: Moment) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    probe = worker.last_probe
    if probe is not None:
        shown["last_probe"] = {
            "at": moment.unix(probe.at_s),
            "ms": round(probe.took_s * 1000, 3),
            "ok": probe.ok,
        }
        if probe.error:
            shown["last_probe"] |= {"error": probe.error, "vetoed": probe.is_vetoed}
    return shown | {"failed_probes": worker.n_failures, "good_probes": worker.n_successes}


def _breaker(worker: Worker, moment: Moment) -> dict[str, Any]:
    breaker = worker.breaker
    shown: dict[str, Any] = {
        "state": breaker.state,
        "failures": breaker.n_failures,
        "opens_at": breaker.failure_threshold,
    }
    if not breaker.is_closed:
        shown["trials_from"] = moment.unix(breaker.trials_from_s)
    return shown


def _job(worker: Worker, moment: Moment) -> dict[str, Any]:
    """SMG's own shape: the change that is under way."""
    probe = worker.last_probe
    if worker.state is State.DRAINING:
        n_left = worker.n_leases + worker.n_held
        kind, status, at_s = "RemoveWorker", "processing", worker.state_since_s
        message: str | None = f"{n_left} requests left" if n_left else None
    else:
        kind, message = "AddWorker", worker.last_error or None
        status = "pending" if probe is None else "processing"
        at_s = worker.added_s if probe is None else probe.at_s
        if worker.is_overdue:
            status = "failed"
    return {
        "job_type": kind,
        "worker_url": worker.spec.address,
        "status": status,
        "message": message,
        "timestamp": int(moment.unix(at_s)),
    }
