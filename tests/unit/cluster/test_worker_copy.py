"""What another process said of a worker counts here as if it had been seen here."""

from __future__ import annotations

import time

import pytest

from app.cluster.worker_copy import Pulse, take_pulse
from app.scheduling.usable import usable
from app.workers.breaker import Breaker
from app.workers.troubles import Troubles
from app.workers.worker import Role, Worker, WorkerSpec


@pytest.mark.parametrize("is_full", [False, True], ids=["open breaker", "full"])
def test_trouble_that_was_told_of(is_full: bool) -> None:
    """A process that never saw the trouble itself spares the worker, and has it back after it."""
    troubles, now_s = Troubles(), time.monotonic()
    sick, well = (
        Worker(WorkerSpec(f"http://{name}", Role.DECODE), Breaker(time.monotonic, 1, 1, 60.0))
        for name in ("sick", "well")
    )
    for worker in (sick, well):
        worker.join(troubles)
    until_s = now_s + 60.0 if is_full else 0.0
    take_pulse(sick, Pulse(sick.id, is_full, 0.0 if is_full else now_s, until_s, 1))
    assert not troubles.are_none(now_s)
    assert usable((sick, well), frozenset(), now_s, troubles) == [well]
    take_pulse(sick, Pulse(sick.id, True, 0.0, 0.0, 0))
    assert list(usable((sick, well), frozenset(), now_s, troubles)) == [sick, well]
    assert troubles.are_none(now_s + 61.0)
