"""A gateway as an operator runs it: ``python -m app`` in a process of its own.

Its workers live in the test's loop, so that what they saw can be looked at.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.flow.fleet import BOUND_S
from tests.flow.raw_client import RawClient, head_of

_FIRST_PORT, _PORTS_A_SHARE, _N_SHARES = 16_000, 1000, 16

ROOT = Path(__file__).parents[2]
START_S = 20.0


@dataclass
class GatewayProcess:
    """A running gateway.

    Attributes:
        logged: The lines of its log, parsed.
    """

    child: asyncio.subprocess.Process
    port: int
    logged: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.child.send_signal(number)

    async def exit_code(self, limit_s: float = BOUND_S) -> int:
        """Waits for its end."""
        async with asyncio.timeout(limit_s):
            return await self.child.wait()

    @asynccontextmanager
    async def connected(
        self, *, tls: ssl.SSLContext | None = None, receive_bytes: int = 0
    ) -> AsyncIterator[RawClient]:
        """One connection to it.

        Args:
            tls: Speak TLS by this.
            receive_bytes: Size of the socket's receive buffer; and then nothing is read ahead.
        """
        client = socket.socket()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        except ConnectionError:
            client.close()
            raise
        limit = receive_bytes or 2**16
        reader, writer = await asyncio.open_connection(
            sock=client, limit=limit, ssl=tls, server_hostname="localhost" if tls else None
        )
        try:
            yield RawClient(reader, writer)
        finally:
            writer.transport.abort()

    async def status(self, path: str) -> int:
        """The status of a GET on a connection of its own; 0: it takes none, or gives none."""
        try:
            async with self.connected() as client:
                await client.send(head_of("GET", path))
                return (await client.answer())[0]
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        return [line for line in self.logged if line["event"] == event]

    def outcomes(self, path: str) -> list[str | None]:
        """What the access log says became of the requests of a route, in their order."""
        return [line.get("outcome") for line in self.lines("request") if line["path"] == path]

    async def loads(self) -> list[int]:
        """The leases of all workers."""
        async with self.connected() as client:
            await client.send(head_of("GET", "/workers"))
            listed = json.loads((await client.answer())[2])["workers"]
        return [worker["load"] for worker in listed]

    async def _read_log(self) -> None:
        assert self.child.stderr is not None
        async for raw in self.child.stderr:
            try:
                self.logged.append(json.loads(raw))
            except json.JSONDecodeError:
                self.logged.append({"event": raw.decode(), "level": "not a log line"})

    async def _start(self, path: str, n_pipes: int) -> None:
        # One that still starts lets its connections wait, and ends at once if it is told to.
        while len(self.lines("listening")) < n_pipes:
            assert self.child.returncode is None, self.logged
            await asyncio.sleep(0.02)
        while path and await self.status(path) != 200:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)


def pair_flags(prefill: Any, decode: Any, *flags: str) -> list[str]:
    """The flags of a gateway before one pair of simulated workers, and others."""
    port = getattr(prefill, "bootstrap_port", None)
    ports = [] if port is None else [str(port)]
    return ["--prefill", prefill.url, *ports, "--decode", decode.url, *flags]


@asynccontextmanager
async def running(
    flags: Sequence[str],
    *,
    ready: str = "/readiness",
    files: tuple[int, int] | None = None,
    start_s: float = START_S,
    n_pipes: int = 1,
) -> AsyncIterator[GatewayProcess]:
    """Runs a gateway; it is killed at the end if it still is there.

    Args:
        flags: Its command line, without address and logging.
        ready: The path that answers 200 once the test may begin; none: it listens.
        files: Soft and hard limit of its open files.
        start_s: Longest time until then.
        n_pipes: The processes that its flags have it run to take connections.
    """
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "--host", "127.0.0.1", "--port", str(port)),
        # Tests run side by side: the metrics port of all would be the same one.
        *("--log-json", "--prometheus-port", "none", *flags),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=files and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files)),
    )
    gateway = GatewayProcess(child, port)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(gateway._read_log())
        try:
            async with asyncio.timeout(start_s):
                await gateway._start(ready, n_pipes)
            yield gateway
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await reading


def free_port() -> int:
    """A port that nobody listens on.

    From below those that the system hands out, and of this process's own share: between here and
    its use no connection and no test that runs beside this one can take it.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # noqa: TID251  (pytest-xdist's)
    own = int(name.removeprefix("gw")) % _N_SHARES
    first = _FIRST_PORT + own * _PORTS_A_SHARE
    for port in random.sample(range(first, first + _PORTS_A_SHARE), _PORTS_A_SHARE):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")
