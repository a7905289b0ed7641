"""What the doctor finds wrong with a fleet, and how findings are put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.doctor.finding import Finding, Severity, error, exit_code, merged, note, warning
from app.doctor.fleet_checks import REMEDIES, examine
from app.doctor.reading import Reading
from app.scheduling.pair_fit import PairFacts, misfits
from app.upstream.get_json import JsonAnswer
from app.workers.worker import Engine, Role
from tests.unit.doctor.patients import PREMISES, ROUTE, codes, sglang, vllm, with_info, with_spec


def found(*readings: Reading, is_of_gateway: bool = False) -> list[tuple[str, str]]:
    """What is found wrong with a fleet."""
    return codes(examine(readings, PREMISES, is_of_gateway=is_of_gateway))


def test_healthy_fleets() -> None:
    """Nothing; of NIXL and of a running gateway's settings, what nobody can see."""
    assert found(sglang(), sglang(Role.DECODE)) == []
    mooncake = [vllm(role, "MooncakeConnector") for role in (Role.PREFILL, Role.DECODE)]
    assert found(*mooncake) == []
    assert found(*mooncake, is_of_gateway=True) == [("note", "settings_are_of_here")]
    assert found(vllm(), vllm(Role.DECODE)) == [("note", "lease_not_told")]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ((), [("error", "no_prefill_worker"), ("error", "no_decode_worker")]),
        ((sglang(),), [("error", "no_decode_worker")]),
        ((sglang(Role.DECODE),), [("error", "no_prefill_worker")]),
        ((with_spec(sglang(disaggregation_mode="null"), role=Role.REGULAR),), []),
    ],
)
def test_missing_roles(readings: tuple[Reading, ...], expected: list[Any]) -> None:
    """A fleet of workers that do both phases lacks none."""
    assert found(*readings) == expected


def test_models_of_one_phase() -> None:
    """Each is named, unless a worker of the other phase did not say what it serves."""
    decode = with_info(sglang(Role.DECODE), model_ids=("m", "n"))
    assert found(sglang(), decode) == [("error", "model_without_pair")]
    (finding,) = examine([sglang(), decode], PREMISES)
    assert finding.problem == "The model n is served by decode workers only."
    silent = replace(with_spec(sglang(), url="http://p2:1"), info=None, bootstrap=None)
    assert ("error", "model_without_pair") not in found(sglang(), silent, decode)


def test_pair_that_does_not_fit() -> None:
    """Every difference, with what to do; once for both."""
    decode = sglang(Role.DECODE, page_size=32, dtype="float16", disaggregation_transfer_backend="x")
    findings = examine([sglang(), decode], PREMISES)
    assert [(f.code, f.problem.partition(".")[0], f.remedy) for f in findings] == [
        (
            "no_partner",
            "They do not fit: KV connector mooncake against x",
            REMEDIES["KV connector"],
        ),
        ("no_partner", "They do not fit: dtype bfloat16 against float16", REMEDIES["dtype"]),
        ("no_partner", "They do not fit: page size 16 against 32", REMEDIES["page size"]),
    ]
    assert {finding.places for finding in findings} == {
        ("http://prefill:8000 -> http://decode:8000",)
    }


def test_pairs_beside_which_others_fit() -> None:
    """A warning, with all pairs in one finding; none for those that are meant to be apart."""
    decodes = [sglang(Role.DECODE, host=f"d{n}", page_size=32) for n in (1, 2)]
    prefill = with_spec(sglang(host="p2", page_size=32), labels={})
    prefill = replace(prefill, bootstrap_port=9009, bootstrap=JsonAnswer(200, ROUTE))
    fleet = [sglang(), sglang(Role.DECODE), prefill, *decodes]
    (finding,) = merged(f for f in examine(fleet, PREMISES) if f.code == "not_paired")[:1]
    assert finding.severity is Severity.WARNING
    assert finding.places == (
        "http://prefill:8000 -> http://d1:8000",
        "http://prefill:8000 -> http://d2:8000",
    )
    labelled = [with_spec(worker, labels={"pairing": "new"}) for worker in (prefill, *decodes)]
    assert found(sglang(), sglang(Role.DECODE), *labelled) == []


def test_label_that_leaves_one_alone() -> None:
    """Meant or not, it gets no request."""
    decode = with_spec(sglang(Role.DECODE), labels={"pairing": "x"})
    assert found(sglang(), decode) == [("error", "no_partner")]


def test_version_that_nixl_refuses_is_no_intention() -> None:
    """It begins like another engine, and is none."""
    old = [with_info(vllm(role), version="0.31.0") for role in (Role.PREFILL, Role.DECODE)]
    old = [with_spec(w, url=f"grpc://old-{w.spec.role}:1") for w in old]
    assert found(vllm(), vllm(Role.DECODE), *old)[:2] == [
        ("warning", "not_paired"),
        ("warning", "not_paired"),
    ]


def test_two_prefill_workers_of_one_bootstrap_port() -> None:
    """On one host only one can have it."""
    other = with_spec(sglang(), url="http://prefill:8001")
    assert ("error", "bootstrap_port_shared") in found(sglang(), other, sglang(Role.DECODE))
    elsewhere = with_spec(sglang(), url="http://elsewhere:8000")
    assert found(sglang(), elsewhere, sglang(Role.DECODE)) == []


def test_every_reason_has_a_remedy() -> None:
    """Each word by which a misfit begins is known."""
    facts = PairFacts(
        Engine.VLLM, "", "", "Nixl1", "a", "a", "a", 1, "a", "a", "a", "a", tp_size=2, pp_size=2
    )
    other = PairFacts(Engine.VLLM, "", "", "Nixl2", "b", "b", "b", 2, "b", "b", "b", "b", 3, 2, 3)
    reasons = [
        *misfits(facts, other),
        *misfits(facts, replace(facts, engine=Engine.SGLANG)),
        *misfits(facts, replace(facts, label="x")),
        *misfits(replace(facts, protocol="a"), replace(facts, protocol="b")),
    ]
    used = {next(words for words in REMEDIES if reason.startswith(words)) for reason in reasons}
    assert used == set(REMEDIES)


def test_findings_are_merged_and_sorted() -> None:
    """The worst first, else as found; equal ones once, with all places, each once."""
    findings = [
        note("n", "p", "r", "a"),
        error("e1", "p", "r", "a"),
        warning("w", "p", "r"),
        error("e2", "p", "r", "b"),
        error("e1", "p", "r", "b"),
        error("e1", "p", "r", "a"),
        error("e1", "other", "r", "a"),
    ]
    assert merged(findings) == (
        Finding(Severity.ERROR, "e1", "p", "r", ("a", "b")),
        Finding(Severity.ERROR, "e2", "p", "r", ("b",)),
        Finding(Severity.ERROR, "e1", "other", "r", ("a",)),
        Finding(Severity.WARNING, "w", "p", "r"),
        Finding(Severity.NOTE, "n", "p", "r", ("a",)),
    )


def test_exit_codes() -> None:
    """By the worst; notes stop nobody."""
    assert exit_code([]) == exit_code([note("n", "", "")]) == 0
    assert exit_code([note("n", "", ""), warning("w", "", "")]) == 1
    assert exit_code([warning("w", "", ""), error("e", "", "")]) == 2
