"""What TLS costs the gateway: clients' side, workers' side, and neither, in turns.

Load generator and stubs know no TLS; nginx as a relay of bytes stands between them and the gateway
in all three cases, so that only the gateway's own side differs. Certificates are made for the run.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nginx
from beside import ASKED, programs
from children import Bench, BenchFailed, Gateway, Stub, free_port
from measure import Pair
from report import Row, line

CASES = PLAIN, CLIENTS, WORKERS = "no TLS", "TLS to clients", "TLS to workers"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def missing() -> str:
    """What keeps it from being measured; empty if nothing does."""
    if not shutil.which("openssl"):
        return "TLS was left out: there is no openssl command."
    return "" if nginx.can_relay() else "TLS was left out: nginx has no stream module here."


def start(bench: Bench, pair: Pair) -> list[Gateway]:
    """The gateway and SMG, each three times and asked through the relay."""
    folder = bench.folder / "tls"
    folder.mkdir()
    certificate, ca = _certificates(folder)
    stubs = (pair.prefill, pair.decode)
    hidden = {False: [_behind(stub, "http") for stub in stubs]}
    hidden[True] = [_behind(stub, "https") for stub in stubs]
    hops = [
        nginx.Hop(front.port, stub.port, listens_tls=is_tls)
        for is_tls, fronts in hidden.items()
        for front, stub in zip(fronts, stubs, strict=True)
    ]
    doors = {
        (program, case): (free_port(), free_port()) for program in programs() for case in CASES
    }
    hops += [
        nginx.Hop(front, back, dials_tls=case == CLIENTS)
        for (_, case), (front, back) in doors.items()
    ]
    bench.spawn("nginx-relay", nginx.relay_command(folder, hops, certificate, ca))
    flags = {
        PLAIN: (),
        CLIENTS: ("--tls-cert-path", certificate[0], "--tls-key-path", certificate[1]),
        WORKERS: ("--ca-cert-paths", ca),
    }
    return [
        bench.start_gateway(
            *(name, python, *hidden[case == WORKERS]),
            more=(*ASKED, "--port", str(back), *flags[case]),
            called=f"{called}, {case}",
            front_port=front,
        )
        for ((name, called, python), case), (front, back) in doors.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """CPU of each case; in brackets in parts of that without TLS."""
    lines = [line(["", *CASES]), line(["---", *["---:"] * len(CASES)])]
    for scenario, samples in rows:
        for _, called, _ in programs():
            of_cases = [samples[f"{called}, {case}"] for case in CASES]
            per = "event" if scenario.n_events else "request"
            costs = [s.cpu_us_per_event if scenario.n_events else s.cpu_us for s in of_cases]
            cells = [f"{cost:.0f} ({cost / costs[0]:.2f})" for cost in costs[1:]]
            name = f"{called}: CPU µs of one {per}, {scenario.name}"
            lines.append(line([name, f"{costs[0]:.0f}", *cells]))
    return "\n".join(lines)


def _behind(stub: Stub, scheme: str) -> Stub:
    """The stub as the relay shows it."""
    return replace(stub, port=free_port(), scheme=scheme)


def _certificates(folder: Path) -> tuple[tuple[str, str], str]:
    """A certificate for 127.0.0.1 and its key, and that of the authority that signed it."""
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    made = (
        ("req", "-x509", *_EC, "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", "-new", *_EC[:5], "-subj", "/CN=stub", "-keyout", "own.key", "-out", "own.csr"),
        (
            *("x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "own.pem"),
        ),
    )
    for words in made:
        done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=False)
        if done.returncode:
            raise BenchFailed(f"openssl failed: {done.stderr.decode()[-500:]}")
    return (str(folder / "own.pem"), str(folder / "own.key")), str(folder / "ca.pem")
