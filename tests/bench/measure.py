"""One measurement: load on one target, with the gateway's CPU and memory around it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cpu
from children import Bench, Gateway, Stub
from model import write_model
from scenarios import Scenario, write_body


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of the load generator against one target showed.

    ``cpu_us`` is CPU of the gateway's processes per request (0 for the stub alone), ``kernel_us``
    the part of it spent in system calls and on waking others, latencies
    run from the send to the last byte (``first_``: to the first byte), in microseconds.
    """

    n_requests: int
    n_events: int
    cpu_us: float
    kernel_us: float
    rate_per_s: float
    p50_us: float
    p99_us: float
    first_p50_us: float
    first_p99_us: float
    peak_bytes: int
    faults: tuple[str, ...] = ()

    @property
    def cpu_us_per_event(self) -> float:
        """CPU per streamed event, the whole request's cost shared among its events."""
        return self.cpu_us * self.n_requests / self.n_events if self.n_events else 0.0


def median(samples: Sequence[Sample]) -> Sample:
    """The median of every figure on its own; faults are joined."""

    def middle(name: str) -> float:
        return statistics.median(float(getattr(sample, name)) for sample in samples)

    return Sample(
        n_requests=int(middle("n_requests")),
        n_events=int(middle("n_events")),
        cpu_us=middle("cpu_us"),
        kernel_us=middle("kernel_us"),
        rate_per_s=middle("rate_per_s"),
        p50_us=middle("p50_us"),
        p99_us=middle("p99_us"),
        first_p50_us=middle("first_p50_us"),
        first_p99_us=middle("first_p99_us"),
        peak_bytes=max(sample.peak_bytes for sample in samples),
        faults=tuple(fault for sample in samples for fault in sample.faults),
    )


class Pair:
    """The stub pair every target is measured with.

    Attributes:
        flags: What a gateway is told beside the pair's URLs.
        can_be_asked: A client can ask the decode stub without a gateway.
    """

    can_be_asked = True

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.flags: tuple[str, ...] = ()
        self.prefill = bench.start_stub("prefill")
        self.decode = bench.start_stub("decode")

    def measure_alone(self, scenario: Scenario, seconds: float) -> Sample:
        """The decode stub without a gateway: the floor of every latency."""
        report = self._load(scenario, self.decode.port, seconds)
        return _sample(report, cpu.Spent(0, 0), 0, _faults(report))

    def measure(self, scenario: Scenario, gateway: Gateway, seconds: float) -> Sample:
        """The gateway under load; checks that both stubs saw every request once."""
        cpu.reset_peak(gateway.pid)
        seen_before, before = self._seen(), cpu.spent(gateway.pid)
        report = self._load(scenario, gateway.port, seconds)
        after = cpu.spent(gateway.pid)
        spent = cpu.Spent(after.user_s - before.user_s, after.kernel_s - before.kernel_s)
        faults = _faults(report)
        n_begun = report["n_ok"] + report["n_errors"] + report["n_unfinished"]
        for role, now, then in zip(("prefill", "decode"), self._seen(), seen_before, strict=True):
            expected = _expected(gateway.proof, role, n_begun)
            seen = {name: now[name] - then[name] for name in expected}
            if seen != expected:
                faults.append(f"{n_begun} requests, but the {role} stub saw {seen}")
        return _sample(report, spent, cpu.memory(gateway.pid).peak_bytes, faults)

    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.prefill.ask("GET", "/stub/stats"), self.decode.ask("GET", "/stub/stats")

    def _load(self, scenario: Scenario, port: int, seconds: float) -> dict[str, Any]:
        _set_interval(self.decode, scenario.interval_us)
        body = write_body(self._bench.folder, scenario)
        arguments = ["--body", str(body), "--connections", str(scenario.n_connections)]
        arguments += ["--seconds", str(seconds), "--drain-s", "30"]
        arguments += ["--events", str(scenario.n_events)] if scenario.n_events else []
        arguments += ["--ramp-s", str(scenario.ramp_s)] if scenario.ramp_s else []
        arguments += [] if self.can_be_asked else ["--numbered", "1"]
        return self._bench.load(port, *arguments)


class GrpcPair(Pair):
    """A pair of stub vLLM workers, and the tokenizer that gateways need before them."""

    can_be_asked = False

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        folder = bench.folder / "model"
        first_word = write_model(folder)
        self.flags = ("--model-path", str(folder))
        self.prefill = bench.start_grpc_stub("prefill", folder, first_word)
        self.decode = bench.start_grpc_stub("decode", folder, first_word)


def _expected(proof: str, role: str, n_begun: int) -> dict[str, int]:
    if not proof:
        return {"requests": n_begun if role == "decode" else 0}
    return {"requests": n_begun, proof: n_begun}


def _set_interval(stub: Stub, interval_us: int) -> None:
    stub.ask("POST", f"/stub/interval/{interval_us}")


def _faults(report: dict[str, Any]) -> list[str]:
    n_bad = report["n_errors"] + report["n_unfinished"]
    return [f"{n_bad} requests failed or never ended: {report['error']}"] if n_bad else []


def _sample(
    report: dict[str, Any], spent: cpu.Spent, peak_bytes: int, faults: Sequence[str]
) -> Sample:
    n = max(report["n_ok"], 1)
    return Sample(
        n_requests=n,
        n_events=report["n_events"],
        cpu_us=(spent.user_s + spent.kernel_s) * 1e6 / n,
        kernel_us=spent.kernel_s * 1e6 / n,
        rate_per_s=n / report["elapsed_s"],
        p50_us=report["p50_us"],
        p99_us=report["p99_us"],
        first_p50_us=report["first_p50_us"],
        first_p99_us=report["first_p99_us"],
        peak_bytes=peak_bytes,
        faults=tuple(faults),
    )
