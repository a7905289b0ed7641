"""One client for each worker, made when it is first needed."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from app.clock import Clock
from app.upstream.grpc_tls import GrpcTls
from app.upstream.sglang_worker import SglangWorkerClient
from app.workers.states import State
from app.workers.worker import Engine, Worker, WorkerInfo

if TYPE_CHECKING:
    from app.upstream.vllm_worker import VllmWorker


class WorkerClients:
    """Holds the connections to all workers.

    Args:
        connect_timeout_s: For name lookup, TCP and TLS together.
        idle_expiry_s: A connection idle for longer is not used again; below the worker's own
            keep-alive, which is 5 s for SGLang.
        health_path: What a probe asks.
        control_timeout_s: Longest time for one control call.
        ssl_context: For ``https`` workers; the system's default verification if left out.
        grpc_tls: For ``grpcs`` workers.
        grpc_client: What speaks to vLLM workers.
        on_info: See :class:`app.upstream.vllm_worker.VllmWorker`.
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
        grpc_tls: GrpcTls | None = None,
        grpc_client: Literal["own", "grpcio"] = "own",
        on_info: Callable[[Worker, WorkerInfo], None] | None = None,
        now_s: Clock = time.monotonic,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_expiry_s = idle_expiry_s
        self._health_path = health_path
        self._control_timeout_s = control_timeout_s
        self._ssl_context = ssl_context
        self._grpc_tls = grpc_tls
        self._grpc_client = grpc_client
        self._on_info = on_info
        self._now_s = now_s
        self._clients: dict[str, SglangWorkerClient] = {}
        self._vllm_clients: dict[str, VllmWorker] = {}

    def control(self, worker: Worker) -> SglangWorkerClient | VllmWorker:
        """Return the client of a worker of either engine, for calls that both have."""
        return self.vllm(worker) if worker.spec.engine is Engine.VLLM else self.get(worker)

    def vllm(self, worker: Worker) -> VllmWorker:
        """Return a vLLM worker's client. Needs a running event loop.

        Raises:
            ValueError: It is no vLLM worker.
        """
        client = self._vllm_clients.get(worker.id)
        if client is None:
            # gRPC and its messages are 13 MB that a gateway before SGLang never needs.
            from app.upstream.vllm_worker import VllmWorker  # noqa: PLC0415

            client = VllmWorker(
                worker,
                client=self._grpc_client,
                tls=self._grpc_tls,
                connect_timeout_s=self._connect_timeout_s,
                control_timeout_s=self._control_timeout_s,
                on_info=self._on_info,
            )
            if worker.state is not State.GONE:
                # As below; a channel that was never connected costs nothing to forget.
                self._vllm_clients[worker.id] = client
        return client

    def get(self, worker: Worker) -> SglangWorkerClient:
        """Return an SGLang worker's client.

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

    def n_running(self, worker: Worker) -> int:
        """Calls that are open on a worker, those that no request waits for included."""
        client = self._known(worker)
        return 0 if client is None else client.running.n_active

    def end(self, worker: Worker) -> int:
        """Fail every call that runs on a worker; returns how many there were."""
        client = self._known(worker)
        return 0 if client is None else client.running.fail_all()

    def take_heard(self, worker: Worker) -> bool:
        """Whether a worker sent a part of an answer since this was asked last."""
        client = self._known(worker)
        return client is not None and client.running.take_heard()

    def _known(self, worker: Worker) -> SglangWorkerClient | VllmWorker | None:
        return self._clients.get(worker.id) or self._vllm_clients.get(worker.id)

    async def drop(self, worker: Worker) -> None:
        """Close the connections to a worker that was removed."""
        for client in (
            self._clients.pop(worker.id, None),
            self._vllm_clients.pop(worker.id, None),
        ):
            if client is not None:
                await client.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for clients in (self._clients, self._vllm_clients):
            while clients:
                _, client = clients.popitem()
                await client.aclose()
