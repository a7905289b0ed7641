"""The gateway as its users start it, asked from outside: REST, ``/proc``, one signal."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.soak.sim_process import ROOT, SimProcess

ASK_TIMEOUT_S = 10.0
START_S = 30.0
FLAGS = (
    *("--host", "127.0.0.1", "--log-level", "warn", "--log-json"),
    *("--request-timeout-secs", "8", "--connect-timeout-secs", "2"),
    *("--health-check-interval-secs", "1", "--health-check-timeout-secs", "2"),
    *("--cb-timeout-duration-secs", "2"),
)


class GatewayProcess:
    """``python -m app`` before some SGLang workers; the others are added while it runs.

    Args:
        port: Where it listens.
        log: Where its lines go.
        workers: The first workers.
        more: Further flags.
    """

    def __init__(
        self, port: int, log: Path, workers: Sequence[SimProcess], more: Sequence[str] = ()
    ) -> None:
        self.port = port
        self.log = log
        words = ["--port", str(port), *FLAGS, *more]
        for worker in workers:
            words += [f"--{worker.role}", worker.url]
            words += [str(worker.bootstrap_port)] if worker.role == "prefill" else []
        # Neither a .env in the working directory nor TANDEM_ names may change what is tested.
        environment = {k: v for k, v in _ENVIRONMENT.items() if not k.startswith("TANDEM_")}
        environment["PYTHONPATH"] = str(ROOT)
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "app", *words],
                stderr=output,
                cwd=log.parent,
                env=environment,
            )

    def wait_until_up(self, path: str = "/readiness") -> None:
        """Waits until it takes requests; with ``/workers`` until it listens.

        Raises:
            RuntimeError: It does not.
        """
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s and self._child.poll() is None:
            try:
                if self.rest("GET", path)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the gateway is not ready: {self.log.read_text()[-2000:]}")

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self._child.poll() is None

    def end(self) -> int:
        """Stops it; returns its exit code."""
        self._child.terminate()
        try:
            return self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def rest(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Asks; returns status and JSON.

        Raises:
            OSError: No answer.
        """
        where = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ASK_TIMEOUT_S)
        with closing(where) as there:
            try:
                data = None if body is None else json.dumps(body)
                there.request(method, path, data, {"content-type": "application/json"})
                answer = there.getresponse()
                raw = answer.read()
                return answer.status, json.loads(raw) if raw else None
            except (http.client.HTTPException, ValueError) as error:
                raise OSError(f"{method} {path}: {error}") from error

    def workers(self) -> list[dict[str, Any]]:
        """All workers as ``/workers`` shows them."""
        listed: list[dict[str, Any]] = self.rest("GET", "/workers")[1]["workers"]
        return listed

    def held(self) -> dict[str, int]:
        """What the process says that it holds, asked by SIGUSR1.

        Raises:
            TimeoutError: It does not say so within 5 s.
        """
        n_known = len(self._lines("held"))
        self._child.send_signal(signal.SIGUSR1)
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            lines = self._lines("held")
            if len(lines) > n_known:
                return {k: v for k, v in lines[-1].items() if isinstance(v, int)}
            time.sleep(0.05)
        raise TimeoutError("the gateway does not say what it holds")

    def exceptions(self) -> list[str]:
        """Tracebacks in its log: defects, whatever the clients got."""
        found = [line.get("exception", "") for line in self._lines()]
        return [text for text in found if text and "DecodeError" not in text]

    def rss_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def n_sockets(self) -> int:
        """Open sockets."""
        folder = Path(f"/proc/{self._child.pid}/fd")
        n_found = 0
        for entry in folder.iterdir():
            try:
                n_found += str(entry.readlink()).startswith("socket:")
            except OSError:
                # Closed since it was listed.
                continue
        return n_found

    def _lines(self, event: str = "") -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                value = {"event": "not a log line", "exception": line}
            if not event or value.get("event") == event:
                found.append(value)
        return found


_ENVIRONMENT = dict(os.environ)  # noqa: TID251  (the gateway's rule; this is not the gateway)
