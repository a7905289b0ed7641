"""Which workers that stay away are removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from app.scheduling.lost_workers import LostWorkers
from app.workers.registry import Registry
from app.workers.states import Event, State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


@dataclass
class Rig:
    """Workers, a clock, and a drain that only takes note."""

    now_s: float = 0.0
    removed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry(now_s=lambda: self.now_s)
        drain: Any = self
        self.lost = LostWorkers(self.registry, drain, 540.0, lambda: self.now_s)

    def start(self, worker: Worker, reason: str) -> None:
        """As the drain."""
        self.removed.append(reason)
        self.registry.apply(worker, Event.REMOVAL, reason)

    def add(
        self,
        name: str,
        state: State = State.READY,
        role: Role = Role.DECODE,
        *,
        model: str = "m",
        pairing: str = "",
        connector: str = "",
        scheme: str = "http",
    ) -> Worker:
        """A worker in a state."""
        labels = {"pairing": pairing} if pairing else {}
        worker = self.registry.add(WorkerSpec(f"{scheme}://{name}", role, labels=labels))
        if state is not State.JOINING:
            facts = VllmFacts(kv_connector=connector) if connector else None
            self.registry.set_info(worker, WorkerInfo(model_ids=(model,), vllm=facts))
            self.registry.apply(worker, Event.JOINED)
        if state is State.UNHEALTHY:
            self.registry.apply(worker, Event.PROBES_FAILED)
        return worker

    def is_removed(self, worker: Worker) -> bool:
        """Whether it is, when it fails once more."""
        n_before = len(self.removed)
        self.lost.look(worker)
        return len(self.removed) > n_before


@pytest.fixture
def rig() -> Rig:
    """No workers yet."""
    return Rig()


def test_time_must_have_passed(rig: Rig) -> None:
    """Not before 540 s, then with the reason; not a second time."""
    rig.add("a")
    lost = rig.add("b", State.UNHEALTHY)
    lost.last_error = "No connection."
    rig.now_s = 539.0
    assert not rig.is_removed(lost)
    rig.now_s = 540.0
    assert rig.is_removed(lost)
    assert rig.removed == ["unhealthy for 540 s: No connection."]
    assert not rig.is_removed(lost)


def test_ready_worker_stays(rig: Rig) -> None:
    """However long it has been ready."""
    rig.add("a")
    well = rig.add("b")
    rig.now_s = 9999.0
    assert not rig.is_removed(well)


def test_worker_that_never_joined(rig: Rig) -> None:
    """Only once it is overdue, though its model is not known."""
    rig.add("a")
    joining = rig.add("b", State.JOINING)
    rig.now_s = 9999.0
    assert not rig.is_removed(joining)
    joining.is_overdue = True
    assert rig.is_removed(joining)


@pytest.mark.parametrize(
    ("n_ready", "n_lost", "n_removed"), [(0, 1, 0), (0, 3, 0), (1, 1, 1), (1, 2, 0), (2, 2, 2)]
)
def test_half_of_its_kind_must_be_ready(
    rig: Rig, n_ready: int, n_lost: int, n_removed: int
) -> None:
    """The last one stays, and so do all if most are lost at once."""
    for i in range(n_ready):
        rig.add(f"ready{i}")
    lost = [rig.add(f"lost{i}", State.UNHEALTHY) for i in range(n_lost)]
    rig.now_s = 600.0
    assert n_removed == sum(rig.is_removed(worker) for worker in lost)


@pytest.mark.parametrize(
    "other",
    [
        {"role": Role.PREFILL},
        {"model": "other"},
        {"pairing": "blue"},
        {"scheme": "grpc"},
    ],
)
def test_only_workers_that_do_the_same_can_stand_in(rig: Rig, other: dict[str, Any]) -> None:
    """The last decode worker of a model, a pairing label or an engine stays."""
    rig.add("a", **other)
    rig.add("b", **other)
    lost = rig.add("c", State.UNHEALTHY)
    rig.now_s = 600.0
    assert not rig.is_removed(lost)
    rig.add("d")
    assert rig.is_removed(lost)


def test_connectors_differ(rig: Rig) -> None:
    """A Mooncake worker is no stand-in for a NIXL worker."""
    rig.add("a", scheme="grpc", connector="MooncakeConnector")
    lost = rig.add("b", State.UNHEALTHY, scheme="grpc", connector="NixlConnector")
    rig.now_s = 600.0
    assert not rig.is_removed(lost)
    rig.add("c", scheme="grpc", connector="NixlConnector")
    assert rig.is_removed(lost)
