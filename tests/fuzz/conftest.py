"""A gateway and a pair in processes of their own, for tests that throw anything at them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from app.sim.small_tokenizer import write_small_tokenizer
from tests.soak.gateway_process import GatewayProcess
from tests.soak.sim_process import SimProcess

QUICK = ("--prefill-tokens-per-s", "1e9", "--decode-step-s", "0", "--disconnect-notice-s", "0.2")
ENDING_S = 10.0
"""By then a request has an answer, however wrong it is."""


@dataclass
class Target:
    """What is asked."""

    engine: str
    http: httpx.Client
    gateway: GatewayProcess

    def check(self, answer: httpx.Response) -> None:
        """No answer may be a defect of the gateway; a refusal has the one shape.

        A worker's own 500 is passed on and names its leg.
        """
        if answer.is_success:
            return
        error: dict[str, Any] = answer.json()["error"]
        told = f"{answer.status_code} {error}"
        assert error["code"] != "internal_error", told
        assert answer.status_code != 500 or error.get("leg"), told
        assert isinstance(error["message"], str), told
        assert error["message"], told
        assert answer.headers["x-tandem-error-code"] == error["code"], told


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_small_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=["sglang", "nixl"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """One for each way of asking; afterwards it still runs, holds nothing and logged no defect."""
    engine: Literal["sglang", "nixl"] = request.param
    folder = tmp_path_factory.mktemp(f"fuzz-{engine}")
    write_small_tokenizer(folder)
    with ExitStack() as stack:
        pair = [SimProcess(role, engine, folder, *QUICK) for role in ("prefill", "decode")]
        for process in pair:
            process.start()
            stack.callback(process.end)
        gateway = GatewayProcess(_free_port(), folder / "gateway.log", pair)
        stack.callback(gateway.end)
        gateway.wait_until_up()
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", timeout=ENDING_S, trust_env=False
        )
        yield Target(engine, stack.enter_context(client), gateway)
        assert gateway.is_running
        assert gateway.exceptions() == []
        assert client.get("/health").status_code == 200
        assert gateway.held()["leases"] == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
