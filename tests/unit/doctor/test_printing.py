"""The doctor's report."""

from __future__ import annotations

from dataclasses import replace

import orjson

from app.doctor.finding import error, note
from app.doctor.fleet_checks import examine
from app.doctor.printing import as_json, as_report
from app.upstream.keep_alive import KeepAlive
from app.workers.probe_rules import ProbeResult
from app.workers.worker import Role
from tests.unit.doctor.patients import PREMISES, sglang, vllm

DOWN = ProbeResult(False, "No connection: refused.", is_connect_failure=True)


def test_report() -> None:
    """A table of the workers, then what is wrong, where, and what to do; then how much."""
    readings = [sglang(), replace(sglang(Role.DECODE), probe=DOWN, info=None)]
    text = as_report(readings, examine(readings, PREMISES))
    assert text == (
        "  role     url                  engine         model  page  tp  dp  state\n"
        "  prefill  http://prefill:8000  sglang 0.5.23  m      16    8   1   ready\n"
        "  decode   http://decode:8000   sglang         ?      ?     ?   ?   unreachable\n"
        "\n"
        "ERROR   unreachable\n"
        "  refused.\n"
        "  where  http://decode:8000\n"
        "  do     Is it running, are scheme, host and port right, and do network and firewalls "
        "let the\n"
        "         gateway through?\n"
        "\n"
        "1 error.\n"
    )


def test_nothing_found() -> None:
    """Said, so that silence is not taken for a crash."""
    assert as_report([sglang()], ()).endswith("\n\nNothing found.\n")


def test_many_places_are_cut_for_people_only() -> None:
    """Six, and how many more; all of them for scripts."""
    places = [f"http://d{n}:1" for n in range(9)]
    findings = [error("e", "p", "r", *places), note("n", "p", "r"), note("n2", "p", "r")]
    text = as_report([], findings)
    assert "http://d5:1 and 3 more\n" in text
    assert text.endswith("1 error, 2 notes.\n")
    assert orjson.loads(as_json([], findings))["findings"][0]["places"] == places


def test_a_worker_cannot_paint_the_terminal() -> None:
    """Control characters of what workers say do not reach it."""
    reading = sglang(version="1\x1b[2J\n2")
    text = as_report([reading], [error("e", "a\x1b[31mb\r\nc", "r")])
    assert "\x1b" not in text
    assert "\r" not in text
    assert "sglang 1 [2J 2" in text


def test_json() -> None:
    """One object with workers, findings and the exit code; no key in it."""
    readings = [
        replace(sglang(), keep_alive=KeepAlive(1.234, is_closed=True), took_s=0.12345),
        replace(vllm(Role.DECODE), probe=DOWN, info=None, faults={"info": "why"}),
    ]
    readings[0] = replace(readings[0], spec=replace(readings[0].spec, api_key="secret"))
    text = as_json(readings, examine(readings, PREMISES))
    report = orjson.loads(text)
    assert "secret" not in text
    assert (report["report_version"], report["exit_code"]) == (1, 2)
    assert report["workers"] == [
        {
            "url": "http://prefill:8000",
            "worker_type": "prefill",
            "engine": "sglang",
            "is_reachable": True,
            "is_ready": True,
            "took_s": 0.123,
            "faults": {},
            "models": ["m"],
            "version": "0.5.23",
            "page_size": 16,
            "dp_size": 1,
            "context_length": 100_000,
            "bootstrap_port": 9001,
            "keep_alive_s": 1.23,
        },
        {
            "url": "grpc://decode:50051",
            "worker_type": "decode",
            "engine": "vllm",
            "is_reachable": False,
            "is_ready": False,
            "took_s": 0.0,
            "faults": {"info": "why"},
        },
    ]
    assert {finding["code"] for finding in report["findings"]} == {
        "unreachable",
        "keep_alive_too_short",
    }
