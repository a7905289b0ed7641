"""The gateway commands of README and of the page on vLLM, run as they stand there.

Only places are exchanged: the hosts for simulated workers, the gateway's port for a free one, the
model's path for a folder with a small tokenizer.
"""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.sim import SglangSim, VllmSim, sim_pair, vllm_pair
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.small_tokenizer import write_small_tokenizer
from tests.flow.process import free_port

AnyWorkers = dict[str, list[SglangSim]] | dict[str, list[VllmSim]]

_REPO = Path(__file__).parents[2]
README, VLLM = ((_REPO / name).read_text() for name in ("README.md", "docs/vllm.md"))
# The page on vLLM has what README has of it, and more; the same text is one block.
BLOCKS = list(dict.fromkeys(re.findall(r"```sh\n(.*?)```", README + VLLM, re.DOTALL)))
COMMANDS = [block for block in BLOCKS if block.startswith("python -m app")]
GATEWAYS = [block for block in COMMANDS if "grpc://" not in block]
NIXL, MOONCAKE = (block for block in COMMANDS if "grpc://" in block)
ENVIRONMENT = next(block for block in BLOCKS if "uvicorn app.main:app" in block)
REQUEST = next(block for block in BLOCKS if "curl http://localhost:30000/workers" in block)


def model_name() -> str:
    """The model that README's request asks for."""
    model = re.search(r'"model": "(.*?)"', REQUEST)
    assert model
    return model[1]


@asynccontextmanager
async def fleet() -> AsyncIterator[dict[str, list[SglangSim]]]:
    """Two simulated pairs."""
    async with AsyncExitStack() as stack:
        model = model_name()
        pairs = [await stack.enter_async_context(sim_pair(model_id=model)) for _ in range(2)]
        yield {"prefill": [p for p, _ in pairs], "decode": [d for _, d in pairs]}


@asynccontextmanager
async def vllm_fleet(connector: str, folder: Path) -> AsyncIterator[dict[str, list[VllmSim]]]:
    """A simulated vLLM pair with the tokenizer of a folder."""
    write_small_tokenizer(folder)
    tokenizer = FolderTokenizer(folder)
    async with vllm_pair(connector, model_id=model_name(), tokenizer=tokenizer) as (p, d):
        yield {"prefill": [p], "decode": [d]}


def localised(script: str, workers: AnyWorkers, port: int) -> str:
    """The script with this test's addresses."""

    def prefill(found: re.Match[str]) -> str:
        sim = workers["prefill"][int(found[1] or 1) - 1]
        return f"{sim.url} {sim.bootstrap_port}" if found[2] else sim.url

    def decode(found: re.Match[str]) -> str:
        return workers["decode"][int(found[1] or 1) - 1].url

    script = re.sub(r"http://prefill(\d?):8000( 900\d)", prefill, script)
    script = re.sub(r"http://decode(\d?):8001", decode, script)
    script = re.sub(r"grpc://prefill(\d?):50051( 8998)?", prefill, script)
    script = re.sub(r"grpc://decode(\d?):50052", decode, script)
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


async def check_gateway(client: httpx.AsyncClient, workers: AnyWorkers, n_pairs: int) -> None:
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


@pytest.mark.parametrize(("connector", "script"), [("nixl", NIXL), ("mooncake", MOONCAKE)])
async def test_vllm_command(connector: str, script: str, tmp_path: Path) -> None:
    """A vLLM pair with either backend; the KV cache is handed over, not computed twice."""
    port = free_port()
    script = script.replace("/path/to/model", str(tmp_path))
    async with (
        vllm_fleet(connector, tmp_path) as workers,
        running(localised(script, workers, port), port) as client,
    ):
        await check_gateway(client, workers, 1)
        handed_over = (await client.get("/workers")).json()["stats"]["handoffs"]
    assert handed_over[connector] == 1
    (decode,) = workers["decode"]
    assert decode.computed_prompt_tokens == 1


def test_commands_are_those_of_the_readme() -> None:
    """A changed README must not leave this file without work."""
    assert len(GATEWAYS) == 2
    assert "--prefill-policy cache_aware" in GATEWAYS[1]
    assert "--prefill grpc://prefill:50051 \\" in NIXL
    assert "--prefill grpc://prefill:50051 8998 \\" in MOONCAKE


def test_commands_of_the_workers_name_the_gateways_ports() -> None:
    """Ports and bootstrap port stand in the workers' commands as in the gateway's."""
    nixl, mooncake = (block for block in BLOCKS if "vllm.entrypoints.grpc_server" in block)
    for block, name in ((nixl, "NixlConnector"), (mooncake, "MooncakeConnector")):
        assert block.count(f'"kv_connector":"{name}"') == 2
        assert re.findall(r"--port (\d+)", block) == ["50051", "50052"]
    assert "VLLM_MOONCAKE_BOOTSTRAP_PORT=8998" in mooncake
