"""Builds, starts and stops what the benchmark runs: stubs, load generator, gateways.

Everything listens on 127.0.0.1. Only processes started here are ever stopped, by their own
handle. Compiled programs and logs live in a temporary directory that goes with the ``Bench``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
ENVIRONMENT = dict(os.environ)  # noqa: TID251  (the gateway's rule; this is not the gateway)
KEY = "bench"
"""The load generator's API key; of use where a gateway was told to ask for it."""
_PROBE = b'{"model":"stub","messages":[{"role":"user","content":"ready?"}],"max_tokens":1}'


class BenchFailed(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Stub:
    """A running stub worker."""

    role: str
    port: int
    pid: int
    scheme: str = "http"
    control_port: int = 0
    """Where a worker that speaks gRPC answers the benchmark's own questions."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """The JSON of one of its own routes (``/stub/stats``, ``/stub/interval/US``)."""
        port = self.control_port or self.port
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, 10)) as there:
            there.request(method, path)
            answer: dict[str, Any] = json.loads(there.getresponse().read())
        return answer


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway in front of one prefill and one decode stub.

    Attributes:
        name: What the tables call it.
        port: Where it is asked.
        pid: The process whose tree is measured.
        proof: What each leg's request shows its stub, by the name of the stub's counter:
            ``rooms`` (SGLang), ``handoffs`` (vLLM); empty for a proxy to the decode stub alone.
    """

    name: str
    port: int
    pid: int
    proof: str = "rooms"


class Bench:
    """Owns the temporary directory, the built programs and every child process."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.stub_command = self._program("stub")
        self.load_command = self._program("load")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _program(self, name: str) -> list[str]:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler and not ENVIRONMENT.get("BENCH_NO_CC"):
            binary = self.folder / name
            command = [compiler, "-O2", "-o", str(binary), str(HERE / f"{name}.c")]
            if subprocess.run(command, check=False).returncode == 0:
                return [str(binary)]
        print(f"no C compiler: {name}.py is slower than the gateway; read CPU figures only")
        return [sys.executable, str(HERE / f"{name}.py")]

    def spawn(
        self, name: str, command: list[str], **popen: Any
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """A child whose output goes to a log, stopped when the bench ends."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            popen.setdefault("stdout", output)
            child = subprocess.Popen(command, stderr=output, **popen)
        self._stack.callback(_stop, child)
        return child, log

    def start_stub(self, role: str, *arguments: str) -> Stub:
        """A stub worker on a free port."""
        command = [*self.stub_command, "--role", role, "--port", "0", *arguments]
        child, log = self.spawn(f"stub-{role}", command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        words = child.stdout.readline().split()
        if len(words) != 2:
            raise BenchFailed(f"the {role} stub did not start: {log.read_text()}")
        return Stub(role, int(words[1]), child.pid)

    def start_grpc_stub(self, role: str, folder: Path, first_word: int) -> Stub:
        """A stub vLLM worker on a free port."""
        command = [sys.executable, str(HERE / "grpc_stub.py"), "--role", role]
        command += ["--folder", str(folder), "--first-word", str(first_word)]
        child, log = self.spawn(f"grpc-stub-{role}", command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        words = child.stdout.readline().split()
        if len(words) != 3:
            raise BenchFailed(f"the {role} stub did not start: {log.read_text()}")
        return Stub(role, int(words[1]), child.pid, "grpc", int(words[2]))

    def start_gateway(
        self,
        name: str,
        python: str,
        prefill: Stub,
        decode: Stub,
        policy: str | None = None,
        more: Sequence[str] = (),
        *,
        called: str | None = None,
        front_port: int | None = None,
    ) -> Gateway:
        """``tandem`` (this repository) or ``smg``, ready to serve the pair.

        Args:
            name: Which of the two.
            python: Its interpreter.
            prefill: The prefill worker.
            decode: The decode worker.
            policy: Of both roles; its own if left out.
            more: Further flags; they win over those given here.
            called: Its name in the tables; ``name`` if left out.
            front_port: Where it is asked, if something stands before its own port.
        """
        port, metrics_port = free_port(), free_port()
        module = ["-m", "smg", "launch"] if name == "smg" else ["-m", "app"]
        command = [python, *module, "--pd-disaggregation"]
        command += ["--prefill", prefill.url]
        command += [] if prefill.scheme == "grpc" else [str(prefill.port)]
        command += ["--decode", decode.url]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--prometheus-port", str(metrics_port), "--log-level", "warn"]
        command += ["--policy", policy] if policy else []
        command += more
        environment = {"PYTHONPATH": str(REPOSITORY)} if name == "tandem" else {}
        gateway = Gateway(called or name, front_port or port, 0)
        return self.serve(command, gateway, environment)

    def serve(
        self,
        command: Sequence[str],
        gateway: Gateway,
        environment: Mapping[str, str] | None = None,
    ) -> Gateway:
        """Starts what is to be measured; returns ``gateway`` with its pid, ready to serve.

        Args:
            command: Starts it.
            gateway: Where it will listen and how its legs are known.
            environment: Beside the bench's own.

        Raises:
            BenchFailed: It ended, or answers no request within 45 s.
        """
        # Neither a .env in the working directory nor TANDEM_ names may change what is measured.
        whole = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("TANDEM_")}
        whole |= environment or {}
        child, log = self.spawn(gateway.name, list(command), cwd=self.folder, env=whole)
        deadline_s = time.monotonic() + 45
        while not answers(gateway.port):
            if child.poll() is not None or time.monotonic() > deadline_s:
                said = log.read_text()[-3000:]
                raise BenchFailed(f"{gateway.name} did not get ready: {said}")
            time.sleep(0.1)
        return replace(gateway, pid=child.pid)

    def load(self, port: int, *arguments: str) -> dict[str, Any]:
        """Runs the load generator to its end and returns its report."""
        with self.loading(port, *arguments) as child:
            output = child.communicate()[0]
        return read_report(output)

    @contextlib.contextmanager
    def loading(self, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The load generator while it runs."""
        command = [*self.load_command, "--port", str(port), *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            yield child
        finally:
            _stop(child)


def read_report(output: bytes) -> dict[str, Any]:
    """The one JSON object the load generator prints."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise BenchFailed(f"the load generator failed: {output[:300]!r}") from None
    return report


def answers(port: int) -> bool:
    """Whether a chat request to this port is answered with 200."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, 5)) as there:
            headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
            there.request("POST", "/v1/chat/completions", _PROBE, headers)
            return there.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(3)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
