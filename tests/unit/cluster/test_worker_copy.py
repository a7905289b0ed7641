"""What another process said of a worker counts here as if it had been seen here."""

from __future__ import annotations

import time

import pytest

from app.cluster.worker_copy import Pulse, take_pulse
from app.scheduling.usable import nobody_is_troubled, usable
from app.workers import breaker
from app.workers.breaker import Breaker
from app.workers.worker import Role, Worker, WorkerSpec


@pytest.mark.parametrize("is_full", [False, True], ids=["open breaker", "full"])
def test_trouble_that_was_told_of(is_full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never saw the trouble itself spares the worker, and has it back after it."""
    monkeypatch.setattr(Worker, "latest_full_s", 0.0)
    breaker.NOT_CLOSED.clear()
    now_s = time.monotonic()
    sick, well = (
        Worker(WorkerSpec(f"http://{name}", Role.DECODE), Breaker(time.monotonic, 1, 1, 60.0))
        for name in ("sick", "well")
    )
    until_s = now_s + 60.0 if is_full else 0.0
    take_pulse(sick, Pulse(sick.id, is_full, 0.0 if is_full else now_s, until_s, 1))
    assert not nobody_is_troubled(now_s)
    assert usable((sick, well), frozenset(), now_s) == [well]
    take_pulse(sick, Pulse(sick.id, True, 0.0, 0.0, 0))
    assert list(usable((sick, well), frozenset(), now_s)) == [sick, well]
    assert nobody_is_troubled(now_s + 61.0)
