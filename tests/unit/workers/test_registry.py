"""The registry and its snapshots."""

from __future__ import annotations

import pytest

from app.workers.registry import DuplicateWorker, Registry
from app.workers.states import State, WrongMove
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


def _ready(registry: Registry, url: str, role: Role, *models: str) -> Worker:
    worker = registry.add(WorkerSpec(url, role))
    registry.set_info(worker, WorkerInfo(model_ids=models))
    registry.set_state(worker, State.READY, "test")
    return worker


def test_snapshot_is_kept_until_a_change() -> None:
    """The same object twice; another one after an add, and the old one as it was."""
    registry = Registry()
    before = registry.snapshot()
    assert registry.snapshot() is before
    registry.add(WorkerSpec("http://a", Role.PREFILL))
    assert (0, 1) == (len(before.workers), len(registry.snapshot().workers))


def test_candidates_are_ready_workers_of_role_and_model() -> None:
    """By role, by model, with wildcards, without those that still join."""
    registry = Registry()
    one = _ready(registry, "http://a", Role.PREFILL, "x")
    two = _ready(registry, "http://b", Role.PREFILL, "x", "y")
    wild = _ready(registry, "http://c", Role.PREFILL)
    decode = _ready(registry, "http://d", Role.DECODE, "x")
    registry.add(WorkerSpec("http://e", Role.PREFILL, model_ids=("x",)))
    snapshot = registry.snapshot()
    assert (one, two, wild) == snapshot.candidates(Role.PREFILL, "x")
    assert (two, wild) == snapshot.candidates(Role.PREFILL, "y")
    assert (wild,) == snapshot.candidates(Role.PREFILL, "unheard of")
    assert (one, two, wild) == snapshot.candidates(Role.PREFILL, None)
    assert (decode,) == snapshot.candidates(Role.DECODE, None)
    assert () == snapshot.candidates(Role.REGULAR, "x")
    assert ("x", "y") == snapshot.model_ids()


def test_knows_models_of_workers_that_are_not_ready() -> None:
    """True for a joining worker's given model; a joining worker is no wildcard."""
    registry = Registry()
    registry.add(WorkerSpec("http://a", Role.PREFILL, model_ids=("x",)))
    registry.add(WorkerSpec("http://b", Role.PREFILL))
    snapshot = registry.snapshot()
    assert (True, False) == (snapshot.knows_model("x"), snapshot.knows_model("y"))
    _ready(registry, "http://c", Role.DECODE)
    assert registry.snapshot().knows_model("y")


@pytest.mark.parametrize("url", ["http://a", "http://A:80/"])
def test_one_worker_a_url(url: str) -> None:
    """The second is refused, however its URL is written; it names the first."""
    registry = Registry()
    first = registry.add(WorkerSpec("http://a:80", Role.PREFILL))
    with pytest.raises(DuplicateWorker) as caught:
        registry.add(WorkerSpec(url, Role.DECODE))
    assert (first.id, first) == (caught.value.worker_id, registry.find(url))


def test_removed_worker_is_gone_and_its_url_free() -> None:
    """GONE, not to be found, cannot come back; the URL can be added again."""
    registry = Registry()
    worker = registry.add(WorkerSpec("http://a", Role.PREFILL))
    assert worker is registry.remove(worker.id)
    assert (State.GONE, None, ()) == (worker.state, registry.get(worker.id), registry.workers())
    with pytest.raises(WrongMove):
        registry.set_state(worker, State.READY)
    registry.add(WorkerSpec("http://a", Role.PREFILL))
    with pytest.raises(KeyError):
        registry.remove(worker.id)


def test_listeners_hear_every_change() -> None:
    """The events in their order, and none after unsubscribing or without a change."""
    registry = Registry()
    heard: list[str] = []
    unsubscribe = registry.subscribe(lambda event, _: heard.append(event))
    worker = _ready(registry, "http://a", Role.PREFILL)
    registry.set_state(worker, State.READY, "again")
    registry.set_spec(worker, WorkerSpec("http://a", Role.PREFILL, priority=7, id=worker.id))
    registry.remove(worker.id)
    unsubscribe()
    _ready(registry, "http://a", Role.PREFILL)
    assert ["added", "info", "state", "spec", "removed"] == heard
    assert (7, "removed") == (worker.spec.priority, worker.state_reason)


def test_spec_keeps_url_and_role() -> None:
    """Another role is refused."""
    registry = Registry()
    worker = registry.add(WorkerSpec("http://a", Role.PREFILL))
    with pytest.raises(ValueError, match="keeps its"):
        registry.set_spec(worker, WorkerSpec("http://a", Role.DECODE, id=worker.id))


def test_ranks_only_grow() -> None:
    """Four counters after a registration with four ranks, still four after one with two."""
    registry = Registry()
    worker = registry.add(WorkerSpec("http://a", Role.PREFILL))
    registry.set_info(worker, WorkerInfo(dp_size=4))
    registry.set_info(worker, WorkerInfo(dp_size=2))
    assert [0, 0, 0, 0] == worker.rank_leases


def test_gone_only_by_removal() -> None:
    """set_state refuses GONE."""
    registry = Registry()
    worker = registry.add(WorkerSpec("http://a", Role.PREFILL))
    with pytest.raises(ValueError, match="removed"):
        registry.set_state(worker, State.GONE)


def test_one_that_came_back_is_there() -> None:
    """A pod's worker has the same id again; nobody is told that it was removed."""
    registry = Registry()
    spec = WorkerSpec("http://a", Role.PREFILL)
    registry.add(spec)
    registry.remove(spec.id, "asked")
    assert registry.why_removed(spec.id) == "asked"
    registry.add(spec)
    assert registry.why_removed(spec.id) is None
