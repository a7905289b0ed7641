"""What ``/workers`` shows of a worker, and that it is what the API description says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.api.worker_schemas import EXAMPLE, WorkerList, WorkerView
from app.api.worker_states import Moment
from app.api.worker_views import list_view, view
from app.dispatch.handoff_counts import HandoffCounts
from app.scheduling.solo import SoloCounts
from app.workers.breaker import Breaker
from app.workers.drain import Drain
from app.workers.lease import Lease
from app.workers.probe_rules import ProbeOverrides, ProbeRecord
from app.workers.registry import Registry
from app.workers.states import Event
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

UNIX_0 = 1_700_000_000.0
"""The time of day when the gateway's clock showed 0."""


@dataclass
class Rig:
    """Workers on a clock that is turned by hand."""

    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.registry = Registry(
            lambda: self.now_s, lambda: Breaker(lambda: self.now_s, failure_threshold=2)
        )
        self.drain = Drain(self.registry, self, 600, lambda: self.now_s)

    def add(self, url: str, role: Role, **more: Any) -> Worker:
        """A joining worker."""
        return self.registry.add(WorkerSpec(url, role, **more))

    def ready(self, url: str, role: Role, info: WorkerInfo, **more: Any) -> Worker:
        """A ready worker."""
        worker = self.add(url, role, **more)
        self.registry.set_info(worker, info)
        self.registry.apply(worker, Event.JOINED)
        return worker

    def shown(self, worker: Worker) -> dict[str, Any]:
        """Its view, as JSON; held against the description every time."""
        clients: Any = self
        moment = Moment(self.now_s, UNIX_0 + self.now_s)
        made = view(worker, moment, self.drain, clients)
        text = orjson.dumps(made)
        WorkerView.model_validate_json(text)
        read: dict[str, Any] = orjson.loads(text)
        return read

    # As the connections.

    def n_running(self, worker: Worker) -> int:
        return 4

    def end(self, worker: Worker) -> int:
        return 3

    async def drop(self, worker: Worker) -> None:
        raise AssertionError


@pytest.fixture
def rig() -> Rig:
    """No workers yet."""
    return Rig()


def test_vllm_worker_shows_its_kv_connector(rig: Rig) -> None:
    """Connector, role, engine id and block size under SMG's names, and the count of handoffs."""
    worker = rig.add("grpc://p:1", Role.PREFILL, labels={"pairing": "blue"})
    shown = rig.shown(worker)
    assert not [name for name in shown if name.startswith("kv_")]
    assert shown["pd_pairing"] == "vllm/?/blue"
    facts = VllmFacts(kv_connector="NixlConnector", kv_role="kv_producer", kv_engine_id="e1")
    rig.registry.set_info(worker, WorkerInfo(model_ids=("m",), dp_size=2, page_size=16, vllm=facts))
    shown = rig.shown(worker)
    told = [shown[f"kv_{name}"] for name in ("connector", "role", "engine_id", "block_size")]
    assert told == ["NixlConnector", "kv_producer", "e1", 16]
    assert (shown["connection_mode"], shown["runtime_type"]) == ("grpc", "vllm")
    assert (shown["dp_size"], shown["rank_loads"]) == (2, [0, 0])
    assert shown["pd_pairing"] == "vllm/NixlConnector/blue"
    counts = HandoffCounts()
    counts.add("nixl")
    counts.add("nixl")
    counts.note_gap(0.0015)
    listed = list_view([shown], counts, SoloCounts())
    assert listed["stats"]["handoffs"] == {"nixl": 2, "max_gap_ms": 1.5}
    WorkerList.model_validate(listed)


def test_view_has_smg_names_and_no_key(rig: Rig) -> None:
    """A ready prefill worker shows what it reported, and never its key."""
    info = WorkerInfo(
        model_ids=("m",),
        version="0.5.23",
        bootstrap_port=9001,
        labels={"version": "0.5.23"},
        context_length=8192,
    )
    worker = rig.ready("http://p:1", Role.PREFILL, info, labels={"zone": "a"}, api_key="top-secret")
    shown = rig.shown(worker)
    assert (shown["model_id"], shown["models"]) == ("m", [{"id": "m", "context_length": 8192}])
    assert (shown["worker_type"], shown["connection_mode"]) == ("prefill", "http")
    assert (shown["runtime_type"], shown["pd_pairing"]) == ("sglang", "sglang/?/?")
    assert (shown["bootstrap_port"], shown["engine_version"]) == (9001, "0.5.23")
    assert shown["labels"] == {"version": "0.5.23", "zone": "a"}
    assert (shown["is_healthy"], shown["status"], shown["load"]) == (True, "ready", 0)
    assert (shown["status_reason"], shown["status_since"]) == ("registered", UNIX_0)
    assert "top-secret" not in repr(shown)
    assert not {"job_status", "draining", "last_error", "full_until", "health"} & shown.keys()


def test_joining_worker_is_a_job(rig: Rig) -> None:
    """Pending before the first try, processing with the error of the last, failed when overdue."""
    worker = rig.add("http://d:1", Role.DECODE)
    shown = rig.shown(worker)
    assert not {"model_id", "models", "labels", "bootstrap_port", "last_probe"} & shown.keys()
    job = {
        "job_type": "AddWorker",
        "worker_url": "http://d:1",
        "status": "pending",
        "message": None,
        "timestamp": UNIX_0,
    }
    assert (shown["status"], shown["job_status"]) == ("pending", job)
    rig.now_s = 7.5
    worker.last_probe = ProbeRecord(7.0, 0.25, ok=False, error="No connection.")
    worker.n_failures = 1
    worker.last_error = "No connection."
    shown = rig.shown(worker)
    news = {"status": "processing", "message": "No connection.", "timestamp": UNIX_0 + 7}
    assert shown["job_status"] == job | news
    assert shown["last_error"] == {"message": "No connection.", "at": UNIX_0 + 7.5}
    assert shown["last_probe"] == {
        "at": UNIX_0 + 7,
        "ms": 250.0,
        "ok": False,
        "error": "No connection.",
        "vetoed": False,
    }
    assert (shown["failed_probes"], shown["good_probes"]) == (1, 0)
    worker.is_overdue = True
    shown = rig.shown(worker)
    assert (shown["status"], shown["job_status"]["status"]) == ("failed", "failed")


def test_breaker_is_shown(rig: Rig) -> None:
    """Failures while closed, when trials begin once it is open, and its state after that."""
    worker = rig.ready("http://d:1", Role.DECODE, WorkerInfo())
    worker.breaker.record_failure()
    assert rig.shown(worker)["breaker"] == {"state": "closed", "failures": 1, "opens_at": 2}
    worker.breaker.record_failure()
    opened = {"state": "open", "failures": 0, "opens_at": 2, "trials_from": UNIX_0 + 60}
    assert rig.shown(worker)["breaker"] == opened
    rig.now_s = 60.0
    assert rig.shown(worker)["breaker"] == opened | {"state": "half_open"}


def test_full_worker_is_shown_as_such(rig: Rig) -> None:
    """Until when it is used last, and no longer."""
    worker = rig.ready("http://d:1", Role.DECODE, WorkerInfo())
    worker.back_off(3.0)
    assert rig.shown(worker)["full_until"] == UNIX_0 + 3
    rig.now_s = 3.0
    assert "full_until" not in rig.shown(worker)


async def test_drain_shows_its_progress(rig: Rig) -> None:
    """Since when, until when, and what is left; the same as SMG's job."""
    worker = rig.ready("http://p:1", Role.PREFILL, WorkerInfo(dp_size=2))
    leases = [Lease(worker, 0), Lease(worker, 1), Lease(worker, 1)]
    leases[2].hold()
    rig.now_s = 5.0
    rig.drain.start(worker, "asked", timeout_s=30)
    rig.now_s = 9.0
    shown = rig.shown(worker)
    progress = {
        "since": UNIX_0 + 5,
        "deadline": UNIX_0 + 35,
        "leases_left": 2,
        "kv_held": 1,
        "calls_open": 4,
        "ended": 0,
    }
    assert (shown["draining"], shown["rank_loads"]) == (progress, [1, 1])
    assert (shown["status"], shown["is_healthy"]) == ("draining", False)
    assert (shown["status_reason"], shown["status_since"]) == ("draining: asked", UNIX_0 + 5)
    assert shown["job_status"] == {
        "job_type": "RemoveWorker",
        "worker_url": "http://p:1",
        "status": "processing",
        "message": "3 requests left",
        "timestamp": UNIX_0 + 5,
    }
    rig.drain.start(worker, "asked", is_forced=True)
    assert rig.shown(worker)["draining"]["ended"] == 3
    await asyncio.sleep(0)


def test_own_probing_rules_are_shown(rig: Rig) -> None:
    """Only those that were given, under SMG's names."""
    probes = ProbeOverrides(timeout_s=2.0, failure_threshold=7, is_disabled=False)
    worker = rig.add("http://d:1", Role.DECODE, probes=probes)
    assert rig.shown(worker)["health"] == {
        "timeout_secs": 2.0,
        "failure_threshold": 7,
        "disable_health_check": False,
    }


def test_list_counts_roles(rig: Rig) -> None:
    """One prefill, two decode, no regular worker in stats."""
    for url, role in (("p:1", Role.PREFILL), ("d:1", Role.DECODE), ("d:2", Role.DECODE)):
        rig.add(f"http://{url}", role)
    listed = list_view(
        [rig.shown(w) for w in rig.registry.workers()], HandoffCounts(), SoloCounts()
    )
    assert listed["stats"] == {"prefill_count": 1, "decode_count": 2, "regular_count": 0}
    assert listed["total"] == 3
    WorkerList.model_validate(listed)


def test_example_is_a_worker() -> None:
    """What the documentation shows could be an answer."""
    WorkerView.model_validate(EXAMPLE)
