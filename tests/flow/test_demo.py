"""The demo as a process: what it prints can be pasted, and Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.flow.process import free_port

BOUND_S = 25.0


@asynccontextmanager
async def demo(folder: Path, *flags: str) -> AsyncIterator[str]:
    """A running demo, by what it printed up to its last line of greeting.

    Args:
        folder: For its temporary files; afterwards nothing may be there.
        *flags: Words after ``demo``.
    """
    command = ["env", f"TMPDIR={folder}", sys.executable, "-m", "app", "demo"]
    command += ["--port", str(free_port()), *flags]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(BOUND_S):
            yield (await process.stdout.readuntil(b"Ctrl-C stops it.")).decode()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b"\n\nStopped.\n", b"")
        assert names_in(folder) == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def names_in(folder: Path) -> list[str]:
    """What a folder holds."""
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ([], "SGLang pair"),
        (["--engine", "vllm"], "vLLM pair (nixl)"),
        (["--engine", "vllm", "--connector", "mooncake"], "vLLM pair (mooncake)"),
    ],
)
async def test_printed_requests_are_answered(flags: list[str], kind: str, tmp_path: Path) -> None:
    """Both commands get an answer that names what was said; nothing is left behind."""
    async with demo(tmp_path, *flags) as printed, httpx.AsyncClient(timeout=BOUND_S) as client:
        assert f"with a simulated {kind}:" in printed
        requests = re.findall(r"curl (?:-N )?(\S+) -H \S+ \S+ \\\n  -d '(.*)'", printed)
        assert len(requests) == 2
        answers = [
            await client.post(url, content=body, headers={"content-type": "application/json"})
            for url, body in requests
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "Hello!" in answers[0].json()["choices"][0]["message"]["content"]
    events = [line[6:] for line in answers[1].text.splitlines() if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "Hello!" in "".join(delta.get("content") or "" for delta in deltas)


def test_connector_without_vllm_is_refused() -> None:
    """One sentence and exit code 2."""
    command = [sys.executable, "-m", "app", "demo", "--connector", "nixl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tandem: --connector nixl: only --engine vllm has connectors.\n"
