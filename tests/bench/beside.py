"""How each peer is started in front of the same pair of stubs as the gateway."""

from __future__ import annotations

import subprocess
import sys

import nginx
from children import ENVIRONMENT, HERE, KEY, Bench, Gateway, free_port
from measure import Pair

OURS = "Tandem"
ASKED = ("--log-level", "info", "--api-key", KEY)
"""What the gateway and SMG are told beside the pair: log lines and a key for every request."""


def start_all(bench: Bench, pair: Pair) -> tuple[list[Gateway], list[str]]:
    """The gateway and every peer that is there; then a sentence for each that is not."""
    targets, missing = start_both(bench, pair)
    if python := ENVIRONMENT.get("VLLM_ROUTER"):
        name = f"vllm-router {_version(python, 'vllm-router')}"
        targets.append(_start_vllm_router(bench, pair, name, python))
    else:
        missing.append("vllm-router was left out: VLLM_ROUTER names no Python that has it.")
    targets.append(_start_plain_proxy(bench, pair))
    if nginx.nginx():
        targets.append(_start_nginx(bench, pair))
    else:
        missing.append("nginx was left out: there is none on the PATH.")
    return targets, missing


def start_both(bench: Bench, pair: Pair) -> tuple[list[Gateway], list[str]]:
    """The gateway and SMG, which alone speak gRPC to workers as well."""
    flags = (*pair.flags, *ASKED)
    two = [
        bench.start_gateway(name, python, pair.prefill, pair.decode, more=flags, called=called)
        for name, called, python in programs()
    ]
    missing = ["SMG was left out: SMG names no Python that has it."] if len(two) == 1 else []
    return two, missing


def programs() -> list[tuple[str, str, str]]:
    """The gateway and SMG, if it is there: name, name in the tables, Python."""
    found = [("tandem", OURS, sys.executable)]
    if python := ENVIRONMENT.get("SMG"):
        found.append(("smg", f"SMG {_version(python, 'smg')}", python))
    return found


def _start_vllm_router(bench: Bench, pair: Pair, name: str, python: str) -> Gateway:
    port = free_port()
    command = [python, "-m", "vllm_router.launch_router", "--vllm-pd-disaggregation"]
    command += ["--prefill", pair.prefill.url, "--decode", pair.decode.url]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    # Its default, cache_aware, has every prompt rendered and tokenized by workers of both roles,
    # which the stubs cannot do; it would be up to four calls more a request.
    command += ["--policy", "round_robin"]
    return bench.serve(command, Gateway(name, port, 0, "handoffs"))


def _start_plain_proxy(bench: Bench, pair: Pair) -> Gateway:
    port = free_port()
    command = [sys.executable, str(HERE / "peers" / "plain_proxy.py"), "--port", str(port)]
    command += ["--prefill", pair.prefill.url, "--decode", pair.decode.url]
    return bench.serve(command, Gateway("FastAPI + httpx", port, 0, "handoffs"))


def _start_nginx(bench: Bench, pair: Pair) -> Gateway:
    port = free_port()
    command = nginx.proxy_command(bench.folder, port, pair.decode.port)
    name = f"nginx {nginx.version()}, decode leg alone"
    return bench.serve(command, Gateway(name, port, 0, ""))


def _version(python: str, package: str) -> str:
    command = [python, "-c", f"import importlib.metadata as m; print(m.version('{package}'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
