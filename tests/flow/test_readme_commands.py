"""README's commands for SGLang workers, run as they stand there.

Only addresses are exchanged: the hosts for simulated workers, the gateway's port for a free one.
"""

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, sim_pair

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
GATEWAYS = [block for block in BLOCKS if block.startswith("python -m app")]
ENVIRONMENT = next(block for block in BLOCKS if "uvicorn app.main:app" in block)
REQUEST = next(block for block in BLOCKS if "curl http://localhost:30000/workers" in block)


@asynccontextmanager
async def fleet() -> AsyncIterator[dict[str, list[SglangSim]]]:
    """Two simulated pairs."""
    model = re.search(r'"model": "(.*?)"', REQUEST)
    assert model
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(sim_pair(model_id=model[1])) for _ in range(2)]
        yield {"prefill": [p for p, _ in pairs], "decode": [d for _, d in pairs]}


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def localised(script: str, workers: dict[str, list[SglangSim]], port: int) -> str:
    """The script with this test's addresses."""

    def prefill(found: re.Match[str]) -> str:
        sim = workers["prefill"][int(found[1] or 1) - 1]
        return f"{sim.url} {sim.bootstrap_port}"

    def decode(found: re.Match[str]) -> str:
        return workers["decode"][int(found[1] or 1) - 1].url

    script = re.sub(r"http://prefill(\d?):8000 900\d", prefill, script)
    script = re.sub(r"http://decode(\d?):8001", decode, script)
    if "--port" in script:
        script = script.replace("--port 30000", f"--port {port}")
    else:
        script = f"{script.rstrip()} --port {port}"
    bin_folder = Path(sys.executable).parent
    script = script.replace("python -m app", f"exec {sys.executable} -m app")
    return script.replace("uvicorn app.main", f"exec {bin_folder / 'uvicorn'} app.main")


@asynccontextmanager
async def running(script: str, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """A shell runs the script; a client of the gateway once that is ready; Ctrl-C at the end."""
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", script, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            async with asyncio.timeout(20):
                while not await is_ready(client):
                    assert shell.returncode is None
                    await asyncio.sleep(0.05)
            yield client
        shell.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            await shell.wait()
    finally:
        if shell.returncode is None:
            shell.kill()
            await shell.wait()


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether the gateway answers and has seen all its workers."""
    try:
        if not (await client.get("/readiness")).is_success:
            return False
        workers = (await client.get("/workers")).json()["workers"]
    except httpx.TransportError:
        return False
    return all(worker["is_healthy"] for worker in workers)


def request_body() -> bytes:
    """The body of README's curl."""
    found = re.search(r"-d '(.*?)'", REQUEST, re.DOTALL)
    assert found
    return found[1].encode()


async def check_gateway(
    client: httpx.AsyncClient, workers: dict[str, list[SglangSim]], n_pairs: int
) -> None:
    """Roles are shown as given, and a request reaches one whole pair."""
    listed: list[dict[str, Any]] = (await client.get("/workers")).json()["workers"]
    roles = {worker["url"]: worker["worker_type"] for worker in listed}
    expected = {sim.url: role for role, sims in workers.items() for sim in sims[:n_pairs]}
    assert expected == roles

    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/chat/completions", content=request_body(), headers=headers)

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    for role in ("prefill", "decode"):
        assert sum(len(sim.seen) for sim in workers[role]) == 1


@pytest.mark.parametrize("script", GATEWAYS)
async def test_gateway_command(script: str) -> None:
    """One pair; several workers with a policy for each phase."""
    port = free_port()
    async with fleet() as workers, running(localised(script, workers, port), port) as client:
        await check_gateway(client, workers, script.count("--prefill http"))


async def test_environment() -> None:
    """The same from variables, under plain uvicorn."""
    port = free_port()
    async with fleet() as workers, running(localised(ENVIRONMENT, workers, port), port) as client:
        await check_gateway(client, workers, 2)


def test_commands_are_those_of_the_readme() -> None:
    """A changed README must not leave this file without work."""
    assert len(GATEWAYS) == 2
    assert "--prefill-policy cache_aware" in GATEWAYS[1]
