"""Warnings of ready workers that fit nobody."""

from __future__ import annotations

from app.scheduling.pair_watch import PairWatch
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


class Watched:
    """A registry and the warnings about its workers."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.warned: list[tuple[str, str]] = []
        PairWatch(self.registry, lambda w, reason: self.warned.append((w.spec.url, reason)))

    def add(self, name: str, page_size: int, *models: str, role: Role | None = None) -> Worker:
        """Add a ready worker; its role by the first letter of its name."""
        role = role or (Role.PREFILL if name.startswith("p") else Role.DECODE)
        worker = self.registry.add(WorkerSpec(f"http://{name}", role))
        self.say(worker, page_size, *models)
        self.registry.set_state(worker, State.READY)
        return worker

    def say(self, worker: Worker, page_size: int, *models: str) -> None:
        """Have a worker say something else of itself."""
        info = WorkerInfo(model_ids=models or ("m",), page_size=page_size)
        self.registry.set_info(worker, info)


def test_who_fits_nobody_is_named() -> None:
    """With the difference, prefill's value first whichever role it is of."""
    watched = Watched()
    watched.add("p1", 16)
    watched.add("d1", 32)
    watched.add("d2", 16)
    watched.add("p2", 64)
    watched.add("p3", 16)
    assert watched.warned == [
        ("http://d1", "page size 16 against 32"),
        ("http://p2", "page size 64 against 32"),
    ]


def test_said_once_and_anew_when_it_changes() -> None:
    """Probes that fail and recover repeat nothing; another difference is news."""
    watched = Watched()
    watched.add("p1", 16)
    decode = watched.add("d1", 32)
    for state in (State.UNHEALTHY, State.READY):
        watched.registry.set_state(decode, state)
    watched.say(decode, 32)
    assert len(watched.warned) == 1
    watched.say(decode, 64)
    watched.say(decode, 16)
    watched.say(decode, 64)
    assert [reason[-2:] for _, reason in watched.warned] == ["32", "64", "64"]


def test_who_has_nobody_to_compare_with() -> None:
    """No other role, another model, a worker of no phase: nothing is said."""
    watched = Watched()
    watched.add("p1", 16)
    watched.add("d1", 32, "other")
    watched.add("r1", 64, role=Role.REGULAR)
    watched.say(watched.registry.add(WorkerSpec("http://d0", Role.DECODE)), 32)
    assert watched.warned == []
    wildcard = watched.registry.add(WorkerSpec("http://d2", Role.DECODE))
    watched.registry.set_info(wildcard, WorkerInfo(page_size=32))
    watched.registry.set_state(wildcard, State.READY)
    assert watched.warned == [("http://d2", "page size 16 against 32")]


def test_nothing_is_kept_of_who_left() -> None:
    """One that comes back under the same id is news again."""
    watched = Watched()
    watched.add("p1", 16)
    decode = watched.add("d1", 32)
    watched.registry.remove(decode.id)
    back = watched.registry.add(decode.spec)
    watched.say(back, 32)
    watched.registry.set_state(back, State.READY)
    assert len(watched.warned) == 2
