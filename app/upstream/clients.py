"""One client for each worker, made when it is first needed."""

from __future__ import annotations

import ssl
import time

from app.clock import Clock
from app.upstream.sglang_worker import SglangWorkerClient
from app.workers.states import State
from app.workers.worker import Worker


class WorkerClients:
    """Holds the connections to all workers.

    Args:
        connect_timeout_s: For name lookup, TCP and TLS together.
        idle_expiry_s: A connection idle for longer is not used again; below the worker's own
            keep-alive, which is 5 s for SGLang.
        health_path: What a probe asks.
        control_timeout_s: Longest time for one control call.
        ssl_context: For ``https`` workers; the system's default verification if left out.
        now_s: Clock of the pools.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        idle_expiry_s: float = 3.0,
        health_path: str = "/health",
        control_timeout_s: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
        now_s: Clock = time.monotonic,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_expiry_s = idle_expiry_s
        self._health_path = health_path
        self._control_timeout_s = control_timeout_s
        self._ssl_context = ssl_context
        self._now_s = now_s
        self._clients: dict[str, SglangWorkerClient] = {}

    def get(self, worker: Worker) -> SglangWorkerClient:
        """Return the worker's client.

        Raises:
            ValueError: It is no SGLang worker.
        """
        client = self._clients.get(worker.id)
        if client is None:
            client = SglangWorkerClient(
                worker,
                health_path=self._health_path,
                control_timeout_s=self._control_timeout_s,
                connect_timeout_s=self._connect_timeout_s,
                idle_expiry_s=self._idle_expiry_s,
                ssl_context=self._ssl_context,
                now_s=self._now_s,
            )
            if worker.state is not State.GONE:
                # Else nobody would ever drop it; its idle connections expire by themselves.
                self._clients[worker.id] = client
        return client

    async def drop(self, worker: Worker) -> None:
        """Close the connections to a worker that was removed."""
        client = self._clients.pop(worker.id, None)
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()
