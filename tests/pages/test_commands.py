"""Every command of README and docs is run here, is run by a test of its own, or is marked.

A block that begins with ``# needs ...`` or ``# takes ...`` says why it is not.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.settings import load, worker_specs
from app.twin import size
from tests.flow.process import free_port
from tests.flow.test_readme_commands import BLOCKS as RUN_BY_README_TEST
from tests.flow.test_readme_commands import COMMANDS as GATEWAYS_RUN
from tests.flow.test_readme_commands import ENVIRONMENT, REQUEST
from tests.pages.commands import REPO, Block, blocks, commands

OURS = [
    (block, command)
    for block in blocks()
    if not block.is_marked
    for command in commands(block.text)
]
LIVE = [c for _, c in OURS if c.startswith(("curl", "tandem doctor --gateway"))]
ALONE = [(b, c) for b, c in OURS if c not in LIVE]


def sh(command: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, in the project's folder."""
    words = ["/bin/sh", "-c", command]
    return subprocess.run(words, check=False, capture_output=True, text=True, cwd=REPO, timeout=30)


def words_of(command: str) -> list[str]:
    """The words of a command without comments; a line may go on in the next."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def run_make(command: str, folder: Path) -> None:
    """The target is there; what it does is other tests' business (``test_demo``, CI)."""
    done = sh(f"make -n {shlex.join(words_of(command)[1:])}")
    assert done.returncode == 0, done.stderr


def run_launch(command: str, folder: Path) -> None:
    """What it would start; ``tests/deploy`` starts it with stand-ins."""
    whole = command.replace("launch-pd-workers.sh ", "launch-pd-workers.sh --dry-run ", 1)
    done = sh(whole)
    assert done.returncode == 0, done.stderr
    assert "python -m app" in done.stdout


def run_replay(command: str, folder: Path) -> None:
    """On a trace of its name with as many rows as it asks for, or with a few."""
    words = words_of(command)
    if "--rows" not in words:
        words += ["--rows", "0:20"]
    first, last = map(int, words[words.index("--rows") + 1].split(":"))
    rows = [
        {"timestamp": i * 500, "input_length": 512, "output_length": 4, "hash_ids": [i]}
        for i in range(last)
    ]
    trace = folder / words[2]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words[2] = str(trace)
    words[words.index("--rows") + 1] = f"{last - min(50, last - first)}:{last}"
    assert main(words[1:]) == 0


def run_size(command: str, folder: Path) -> None:
    """As it stands; fewer requests are played."""
    assert main(words_of(command)[1:]) == 0


def run_doctor(command: str, folder: Path) -> None:
    """Nobody is at the addresses of the page, and it says so."""
    done = sh(command.replace("tandem ", f"{shlex.quote(sys.executable)} -m app ", 1))
    assert done.returncode == 2
    assert "No connection to prefill:8000" in done.stdout


def read_settings(command: str, folder: Path) -> None:
    """A line of an environment, as the gateway reads it."""
    (line,) = shlex.split(command.removeprefix("export "))
    name, _, value = line.partition("=")
    assert worker_specs(load({}, {name: value}, None, pytest.fail))


def start_gateway(command: str, folder: Path) -> None:
    """It starts with these flags, lives and ends; ``...`` stands for the reader's own workers."""
    port = free_port()
    words = [w for w in words_of(command)[1:] if w != "..."]
    run = [sys.executable, "-m", "app", *words, "--port", str(port), "--prometheus-port", "none"]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as gateway:
        try:
            for _ in range(200):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/liveness").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
                assert gateway.poll() is None, gateway.communicate()[1].decode()
            else:
                pytest.fail("it does not live after 20 s")
        finally:
            gateway.send_signal(signal.SIGINT)
            gateway.communicate()
    assert gateway.returncode == 0


def is_of_readme(command: str, folder: Path) -> None:
    """``test_readme_commands`` runs it before simulated workers."""
    texts = [*GATEWAYS_RUN, ENVIRONMENT, REQUEST]
    assert any(command in text for text in texts), "a gateway command that README does not have"


RULES: list[tuple[str, Callable[[str, Path], None]]] = [
    (r"make \w", run_make),
    (r"([A-Z_]+=\S+ )*\./scripts/launch-pd-workers\.sh ", run_launch),
    (r"tandem replay ", run_replay),
    (r"tandem size ", run_size),
    (r"tandem doctor --prefill ", run_doctor),
    (r"(export )?TANDEM_\w+=", read_settings),
    (r"tandem (\.\.\. )?--", start_gateway),
    (r"python -m app |uvicorn app\.main:app ", is_of_readme),
]


@pytest.mark.parametrize(("block", "command"), ALONE, ids=lambda v: getattr(v, "page", None))
@pytest.mark.timeout(120)
def test_command(
    block: Block, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the one rule that fits it; a command that none fits fails."""
    monkeypatch.setattr(size, "_N_PLAYED", 100)
    rules = [run for pattern, run in RULES if re.match(pattern, command)]
    assert len(rules) == 1, f"{block.page}: nothing runs {command!r}"
    rules[0](command, tmp_path)


@pytest.fixture
async def place() -> AsyncIterator[str]:
    """Where a running demo is; it logs that a worker of the pages cannot be reached."""
    port = free_port()
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "demo", "--port", str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert demo.stdout is not None
    try:
        await demo.stdout.readuntil(b"Ctrl-C stops it.")
        yield f"127.0.0.1:{port}"
    finally:
        demo.terminate()
        await demo.communicate()


@pytest.mark.timeout(120)
async def test_commands_that_ask_a_gateway(place: str) -> None:
    """All of them, one after the other, before a running demo; names of models are its own."""
    assert LIVE
    for command in LIVE:
        here = re.sub(r"(localhost|127\.0\.0\.1|gateway):30000", place, command)
        here = here.replace("meta-llama/Llama-3.1-70B-Instruct", "sim-model")
        here = here.replace("tandem ", f"{shlex.quote(sys.executable)} -m app ")
        if shutil.which("jq") is None:
            here = here.replace("| jq", "")  # It only makes the answer pretty.
        here = re.sub(r"^curl ", "curl --fail -sS ", here)
        # What goes into a file is looked at instead.
        here = re.sub(r" -o \S+$", " -o /dev/stdout", here)
        done = await asyncio.to_thread(sh, here)
        assert done.returncode == 0, (here, done.stderr, done.stdout)
        assert done.stdout


def test_marked_blocks_hold_what_cannot_be_run() -> None:
    """A mark is no way around: what runs here is not marked."""
    for block in blocks():
        if block.is_marked:
            assert not re.search(
                r"^(curl|tandem (size|replay|doctor)|make test)\b", block.text, re.MULTILINE
            )


def test_readme_blocks_are_those_of_its_test() -> None:
    """Both read the pages in the same way."""
    pages = ("README.md", "docs/vllm.md")
    assert {b.text for b in blocks() if b.page in pages} == set(RUN_BY_README_TEST)
