"""A simulated worker in a process of its own, which can be stopped and killed like one."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
ASK_TIMEOUT_S = 5.0
N_STARTS = 20
_READY = re.compile(r"ready at (\S+)(?: bootstrap port (\d+))?(?: control port (\d+))?")


class SimProcess:
    """``python -m app.sim`` for one worker.

    Args:
        role: The worker's.
        engine: ``sglang``, or vLLM's connector.
        model: The folder of the tokenizer; vLLM only.
        flags: Further words of its command line.

    Attributes:
        url: The worker's, known after the first start; later starts keep every port.
        bootstrap_port: Of a prefill worker that has one.
    """

    def __init__(
        self,
        role: Literal["prefill", "decode"],
        engine: Literal["sglang", "nixl", "mooncake"],
        model: Path | None = None,
        *flags: str,
    ) -> None:
        self.role = role
        self.engine = engine
        self.url = ""
        self.bootstrap_port: int | None = None
        self._control_port = 0
        self._child: subprocess.Popen[str] | None = None
        self._flags = ["--role", role, *flags]
        if engine != "sglang":
            self._flags += ["--engine", "vllm", "--connector", engine, "--tokenizer", str(model)]

    @property
    def port(self) -> int:
        """Of the URL."""
        return int(self.url.rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        """It was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts the process and waits until it listens.

        A port that it had before may just serve somebody's outgoing connection.

        Raises:
            RuntimeError: It ended instead, again and again.
        """
        for _ in range(N_STARTS):
            if self._is_started():
                return
            time.sleep(0.5)
        raise RuntimeError(f"a simulated worker did not start: {self._flags}")

    def _is_started(self) -> bool:
        ports: dict[str, int] = {}
        if self.url:
            ports["--port"] = self.port
            if self.bootstrap_port:
                ports["--bootstrap-port"] = self.bootstrap_port
        if self.engine != "sglang":
            ports["--control-port"] = self._control_port
        words = [word for name, port in ports.items() for word in (name, str(port))]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "app.sim", *self._flags, *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._child.stdout is not None
        found = _READY.search(self._child.stdout.readline())
        if found is None:
            self.wait()
            return False
        self.url = found[1]
        self.bootstrap_port = int(found[2]) if found[2] else None
        self._control_port = int(found[3] or self.port)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Ends it as kill -9 does, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """Ends the process, which may be stopped."""
        if self.is_running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        """Waits for the end, at most 5 s."""
        if self._child is None:
            return
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def ask(self, path: str, order: dict[str, Any] | None = None) -> Any:
        """Asks one of the ``/sim`` routes; with ``order`` by POST.

        Raises:
            OSError: Nobody there, or no answer in 5 s.
        """
        where = http.client.HTTPConnection("127.0.0.1", self._control_port, ASK_TIMEOUT_S)
        with closing(where) as there:
            body = None if order is None else json.dumps(order)
            try:
                there.request("GET" if body is None else "POST", path, body)
                return json.loads(there.getresponse().read())
            except (http.client.HTTPException, ValueError) as error:
                raise OSError(f"{self.url} did not answer {path}") from error
