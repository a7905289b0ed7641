"""What is read from the whole ``/server_info`` of real SGLang workers, and what is found in it."""

from __future__ import annotations

from app.doctor.fleet_checks import examine
from app.doctor.reading import Premises, Reading
from app.scheduling.pair_fit import misfit, pair_facts
from app.upstream.sglang_info import worker_info
from app.workers.probe_rules import ProbeResult
from app.workers.sglang_facts import SglangFacts
from app.workers.worker import Role, WorkerInfo, WorkerSpec
from tests.wire.conftest import Samples


def info_of(samples: Samples, role: str) -> WorkerInfo:
    """What the gateway takes from the three answers of a registration."""
    answers = (samples.answer(f"{name}.{role}") for name in ("models", "server_info", "model_info"))
    return worker_info(*(answer.documents[0] for answer in answers))


def test_facts_of_real_workers(samples: Samples) -> None:
    """Both say the same, and fit."""
    both = {role: info_of(samples, str(role)) for role in (Role.PREFILL, Role.DECODE)}
    for info in both.values():
        assert info.sglang == SglangFacts(
            transfer_backend="mooncake",
            dtype="float32",
            attention_tp_size=1,
            attention_cp_size=1,
            pp_size=1,
            allocation_policy="early",
        )
        assert (info.page_size, info.context_length, info.version) == (1, 8192, "0.5.23")
    facts = [pair_facts(WorkerSpec("http://w", role), info) for role, info in both.items()]
    assert misfit(*facts) == ""


def test_what_the_doctor_finds_in_a_real_pair(samples: Samples) -> None:
    """What these two were really started with: no overlap, no cache report."""
    readings = [
        Reading(
            WorkerSpec(f"http://{role}", role),
            ProbeResult(True),
            info=info_of(samples, str(role)),
            server=samples.answer(f"server_info.{role}").documents[0],
            loads=tuple(samples.answer(f"loads.{role}").documents[0]["loads"]),
        )
        for role in (Role.PREFILL, Role.DECODE)
    ]
    found = {finding.code: finding.places for finding in examine(readings, Premises())}
    assert found == {
        "no_overlap_schedule": ("http://prefill", "http://decode"),
        "no_cache_report": ("http://prefill",),
    }
