"""Many slow streams through the gateway for a while: no error, nothing lost, memory flat.

::

    .venv/bin/python tests/bench/streams.py [--streams 500] [--rate 20] [--seconds 60]
    .venv/bin/python tests/bench/streams.py --streams 10000 --rate 0.5

Every client connection holds one stream open at a time and asks for the next when it has ended.
The load generator checks each event's number, the end and ``[DONE]``. Resident memory of the
gateway is sampled each second; after the ramp (the first streams' whole life) the median of the
last quarter may exceed that of the first by the larger of 5 % and 8 MB, and none 1 GiB. Exit code 1
otherwise. Streams that the machine cannot keep up with wait in buffers: those may grow.
The gateway needs three open files for a stream: where the system allows fewer, fewer are held.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from typing import Any

import cpu
import report
from children import Bench, BenchFailed, Gateway, Stub, read_report
from scenarios import Scenario, write_body

_RAMP_S = 2.0
_ALLOWED_SHARE = 1.05
_ALLOWED_BYTES = 8_000_000
_FILES_BESIDE, _FILES_EACH = 256, 3
"""Open files of the gateway, as it counts them: the client's, decode's and prefill's connection."""
_MOST_BYTES = 1 << 30
_KEPT_PACE = 1.1


def main() -> int:
    """Runs the streams and prints what was seen."""
    asked = _arguments()
    print(f"machine: {report.machine()}", flush=True)
    try:
        with Bench() as bench:
            prefill = bench.start_stub("prefill")
            decode = bench.start_stub("decode", "--interval-us", str(int(1e6 / asked.rate)))
            name = "smg" if asked.smg else "tandem"
            python = asked.smg or sys.executable
            more = ("--max-concurrent-requests", str(2 * asked.streams))
            gateway = bench.start_gateway(name, python, prefill, decode, more=more)
            before, idle_bytes = cpu.spent(gateway.pid), cpu.memory(gateway.pid).rss_bytes
            outcome, resident = _hold(bench, gateway, asked)
            spent = cpu.spent(gateway.pid)
            nominal_s = asked.events / asked.rate
            has_pace = outcome["p50_us"] / 1e6 < _KEPT_PACE * nominal_s
            faults = _faults(outcome, resident, [prefill, decode], has_pace)
            peak_bytes = cpu.memory(gateway.pid).peak_bytes
    except BenchFailed as failure:
        print(f"streams: {failure}", file=sys.stderr)
        return 2
    cpu_s = spent.user_s + spent.kernel_s - before.user_s - before.kernel_s
    n_events = max(outcome["n_events"], 1)
    held_bytes = _quarter(resident, 3) - idle_bytes
    print(
        f"{outcome['n_ok']} streams, {n_events} events in {outcome['elapsed_s']:.0f} s, "
        f"{outcome['n_errors']} errors, {outcome['n_unfinished']} unfinished\n"
        f"{n_events / outcome['elapsed_s']:.0f} events a second arrived; "
        f"a stream took {outcome['p50_us'] / 1e6:.1f} s, by itself {nominal_s:.1f}"
        f"{'' if has_pace else ': more than this machine can pass on'}\n"
        f"first byte p50 {outcome['first_p50_us'] / 1e3:.1f} ms, "
        f"p99 {outcome['first_p99_us'] / 1e3:.1f} ms; "
        f"longest pause between events {outcome['max_gap_us'] / 1e3:.0f} ms\n"
        f"gateway CPU {cpu_s:.1f} s = {cpu_s * 1e6 / n_events:.1f} µs an event\n"
        f"gateway memory after the ramp: first quarter {_quarter(resident, 0) / 1e6:.1f} MB, "
        f"last quarter {_quarter(resident, 3) / 1e6:.1f} MB, peak {peak_bytes / 1e6:.1f} MB; "
        f"{idle_bytes / 1e6:.1f} MB before, so {held_bytes / 1e3 / asked.streams:.1f} KB a stream"
    )
    for fault in faults:
        print(f"FAULT: {fault}")
    print("failed" if faults else "passed")
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Holds many slow streams open for a while.")
    parser.add_argument("--streams", type=int, default=500, help="streams open at a time")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second of each stream")
    parser.add_argument("--seconds", type=float, default=60.0, help="no stream begins after this")
    parser.add_argument(
        "--events", type=int, help="of a stream (default: 5 s of them; 25 s with 10,000 streams)"
    )
    parser.add_argument("--smg", metavar="PYTHON", help="hold them through SMG instead")
    asked = parser.parse_args()
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _FILES_BESIDE) // _FILES_EACH
    if asked.streams > most:
        print(f"The system allows files for {most} streams, {asked.streams} were asked for.")
        asked.streams = most
    # Many streams live longer and begin more slowly: to begin one costs as much as ten events.
    life_s = min(max(5.0, asked.streams / 400), asked.seconds / 3)
    asked.events = asked.events or max(2, int(asked.rate * life_s))
    asked.ramp_s = max(_RAMP_S, asked.streams / 400)
    return asked


def _hold(
    bench: Bench, gateway: Gateway, asked: argparse.Namespace
) -> tuple[dict[str, Any], list[int]]:
    """Runs the load; returns its report and the resident bytes of each second after the ramp."""
    scenario = Scenario("held", asked.streams, n_events=asked.events)
    body = write_body(bench.folder, scenario)
    # The last streams begin just before the time is over and live on.
    seconds = max(asked.seconds - asked.events / asked.rate, 1.0)
    arguments = ["--body", str(body), "--connections", str(asked.streams)]
    arguments += ["--events", str(asked.events), "--seconds", str(seconds)]
    arguments += ["--ramp-s", str(min(asked.ramp_s, seconds / 2)), "--drain-s", "120"]
    resident: list[int] = []
    begun_s = time.monotonic()
    settled_s = asked.ramp_s + asked.events / asked.rate
    with bench.loading(gateway.port, *arguments) as load:
        while load.poll() is None:
            time.sleep(1)
            elapsed_s = time.monotonic() - begun_s
            rss_bytes = cpu.memory(gateway.pid).rss_bytes
            if settled_s < elapsed_s < seconds:
                resident.append(rss_bytes)
            if int(elapsed_s) % 10 == 0:
                print(f"{elapsed_s:.0f} s: gateway at {rss_bytes / 1e6:.1f} MB", flush=True)
        assert load.stdout is not None
        return read_report(load.stdout.read()), resident


def _quarter(resident: list[int], which: int) -> float:
    size = max(1, len(resident) // 4)
    part = resident[-size:] if which == 3 else resident[which * size : (which + 1) * size]
    return statistics.median(part) if part else 0.0


def _faults(
    outcome: dict[str, Any], resident: list[int], stubs: list[Stub], has_pace: bool
) -> list[str]:
    faults = []
    if outcome["n_errors"] or outcome["n_unfinished"] or not outcome["n_ok"]:
        faults.append(f"streams failed; the first: {outcome['error'] or 'never ended'}")
    n_begun = outcome["n_ok"] + outcome["n_errors"] + outcome["n_unfinished"]
    for stub in stubs:
        seen = stub.ask("GET", "/stub/stats")
        if seen["rooms"] < n_begun or seen["cut"]:
            faults.append(f"{n_begun} streams, but the {stub.role} stub saw {seen}")
    first, last = _quarter(resident, 0), _quarter(resident, 3)
    if max(resident, default=0) > _MOST_BYTES:
        faults.append(f"memory rose to {max(resident) / 1e6:.0f} MB")
    if has_pace and last > first * _ALLOWED_SHARE and last > first + _ALLOWED_BYTES:
        faults.append(f"memory grew from {first / 1e6:.1f} to {last / 1e6:.1f} MB")
    if len(resident) < 8:
        faults.append(f"only {len(resident)} memory samples after the ramp: give more --seconds")
    return faults


if __name__ == "__main__":
    sys.exit(main())
