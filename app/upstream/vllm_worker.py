"""Everything the gateway asks of one vLLM worker, over one gRPC channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from app.protocol.engine import EngineRequest
from app.upstream import vllm_channel as rpcs
from app.upstream import vllm_ending
from app.upstream.failures import (
    ConnectFailed,
    RpcFailed,
    SilenceTimeout,
    UpstreamError,
    removal,
)
from app.upstream.generated import common_pb2, health_pb2
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_tls import GrpcTls
from app.upstream.sglang_worker import ABORT_TIMEOUT_S, WorkerRefused
from app.upstream.vllm_bundle import read_bundle
from app.upstream.vllm_call import VllmCall
from app.upstream.vllm_channel import SERVICE, Answer, GrpcClient, Metadata, Method, open_channel
from app.upstream.vllm_info import as_dict, conflict, same_engine, worker_info
from app.upstream.vllm_kv_events import read_kv_events
from app.upstream.vllm_messages import to_wire
from app.upstream.vllm_open_calls import OpenCalls
from app.workers.kv_events import KvBatch
from app.workers.probe_rules import ProbeResult
from app.workers.states import State
from app.workers.worker import Worker, WorkerInfo, rank_conflict

if TYPE_CHECKING:
    from google.protobuf.message import Message

_NOT_OFFERED = frozenset({"UNIMPLEMENTED", "NOT_FOUND"})


class VllmWorker:
    """Speaks to one worker; made by :class:`app.upstream.clients.WorkerClients`.

    Control calls raise ``ConnectFailed`` (nobody there), ``SilenceTimeout`` (no answer in time),
    ``BrokenResponse`` (connection lost) or ``RpcFailed`` (an error status).

    Args:
        worker: The worker; its key is read anew for every call.
        client: Which gRPC client it is asked by.
        tls: For ``grpcs``.
        connect_timeout_s: For name lookup, TCP and TLS together.
        control_timeout_s: Longest time for one control call.
        on_info: Told what the worker says of itself when it turns out to be another engine than
            at the last registration, because it was restarted between two probes.

    Raises:
        ValueError: The worker is no vLLM worker.

    Attributes:
        running: Its Generate calls.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        client: GrpcClient = "own",
        tls: GrpcTls | None = None,
        connect_timeout_s: float = 10.0,
        control_timeout_s: float = 5.0,
        on_info: Callable[[Worker, WorkerInfo], None] | None = None,
    ) -> None:
        self._worker = worker
        self._connect_timeout_s = connect_timeout_s
        self._control_timeout_s = control_timeout_s
        self._on_info = on_info
        self._channel = open_channel(
            worker.spec.url, client, tls=tls, connect_timeout_s=connect_timeout_s
        )
        self.running = OpenCalls()
        self._info: WorkerInfo | None = None
        self._n_losses_known = 0

    async def aclose(self) -> None:
        """Close the connection; what still runs on it is cancelled."""
        await self._channel.aclose()

    def generate(
        self,
        request: EngineRequest,
        *,
        first_timeout_s: float | None = None,
        gap_timeout_s: float | None = None,
    ) -> VllmCall:
        """Make a call; it starts when it is entered.

        Args:
            request: What to generate.
            first_timeout_s: From the connection to the first message. A prefill leg sends its
                only message when its whole prompt is computed.
            gap_timeout_s: Between two messages.

        Raises:
            ValueError: A number of the request does not fit the wire.
        """
        call = VllmCall(
            self._channel,
            to_wire(request),
            self.running,
            metadata=self._metadata() + request.trace,
            connect_timeout_s=self._connect_timeout_s,
            first_timeout_s=first_timeout_s,
            gap_timeout_s=gap_timeout_s,
        )
        if self._worker.state is State.GONE:
            call.fail(removal(was_sent=False))
        return call

    async def end(self, reading: asyncio.Task[Any], request_id: str) -> None:
        """Have the engine end a generation that ``reading`` reads; see :func:`vllm_ending.end`."""
        await vllm_ending.end(self, reading, request_id)

    async def release(self, request: EngineRequest) -> bool:
        """Have this decode worker drop a handoff; see :func:`vllm_ending.release`."""
        return await vllm_ending.release(self, request)

    async def abort(self, ids: Sequence[str]) -> int:
        """Have the worker end requests by their ids; takes at most 2 s and raises nothing.

        The worker ignores unknown ids, and an aborted request ends with finish reason ``abort``
        where it is still read.

        Returns:
            How many ids the worker took; 0 if it could not be asked.
        """
        try:
            await self._ask(rpcs.ABORT, pb.AbortRequest(request_ids=ids), ABORT_TIMEOUT_S)
        except UpstreamError:
            # Counted by not being counted: the caller sees the number that worked.
            return 0
        return len(ids)

    async def probe(self) -> ProbeResult:
        """Ask once whether the worker takes requests; a failure is a result, nothing is raised.

        The standard health service says so from the end of the warm-up to the begin of the
        shutdown; a worker without it is asked whether its engine lives. A worker that was
        connected anew since its registration is asked again what it is.
        """
        try:
            result = await self._readiness()
            if result.ok and self._info is not None:
                await self.fresh_info()
        except ConnectFailed as exc:
            return ProbeResult(False, str(exc), is_connect_failure=True)
        except SilenceTimeout as exc:
            return ProbeResult(False, str(exc), is_silence=True)
        except (UpstreamError, WorkerRefused) as exc:
            return ProbeResult(False, str(exc))
        return result

    async def info(self) -> WorkerInfo:
        """Ask what the worker is: GetModelInfo, GetServerInfo, and GetLoads for the version.

        Raises:
            UpstreamError: It could not be asked.
        """
        model = await self._ask(rpcs.GET_MODEL_INFO, pb.GetModelInfoRequest())
        server = await self._ask(rpcs.GET_SERVER_INFO, pb.GetServerInfoRequest())
        try:
            loads = await self._ask(rpcs.GET_LOADS, pb.GetLoadsRequest())
        except RpcFailed:
            loads = pb.GetLoadsResponse()
        return worker_info(model, server, loads)

    async def register(self) -> WorkerInfo:
        """Ask what the worker is, and whether it can do what it shall.

        Raises:
            WorkerRefused: What it runs as contradicts its role; with a sentence.
            UpstreamError: It could not be asked.
        """
        self._channel.look()
        n_losses = self._channel.n_losses
        info = await self.info()
        spec = self._worker.spec
        problem = conflict(spec.role, info) or rank_conflict(spec, info)
        if problem:
            raise WorkerRefused(f"{self._worker.spec.url} {problem}")
        self._info = info
        self._n_losses_known = n_losses
        return info

    async def fresh_info(self) -> WorkerInfo:
        """Return what the worker said, asked anew if the connection was lost since.

        A Mooncake handoff names the prefill worker's engine id, which changes with each start.
        Raises as ``register`` does.
        """
        self._channel.look()
        if self._info is not None and self._channel.n_losses == self._n_losses_known:
            return self._info
        known = self._info
        info = await self.register()
        if known is not None and self._on_info is not None and not same_engine(known, info):
            self._on_info(self._worker, info)
        return info

    async def server_info(self) -> dict[str, Any]:
        """Return GetServerInfo under its own field names."""
        answer = await self._ask(rpcs.GET_SERVER_INFO, pb.GetServerInfoRequest())
        return as_dict(answer)

    async def model_info(self) -> dict[str, Any]:
        """Return GetModelInfo under its own field names."""
        answer = await self._ask(rpcs.GET_MODEL_INFO, pb.GetModelInfoRequest())
        return as_dict(answer)

    async def loads(self) -> dict[str, Any]:
        """Return GetLoads, ``{"timestamp", "version", "dp_rank_count", "loads": [...]}``.

        The members of ``loads`` have the names that SGLang's ``/v1/loads`` uses.
        """
        answer = await self._ask(rpcs.GET_LOADS, pb.GetLoadsRequest())
        return as_dict(answer, is_full=True)

    async def flush_cache(self) -> None:
        """Have the worker empty its prefix cache.

        Raises:
            WorkerRefused: It refused, as when requests run.
            UpstreamError: It could not be asked.
        """
        order = common_pb2.FlushCacheRequest(timeout_s=self._control_timeout_s)
        answer = await self._ask(rpcs.FLUSH_CACHE, order)
        if not answer.success:
            raise WorkerRefused(answer.message or "The worker did not flush its cache.")

    def tokenizer_bundle(self) -> AsyncGenerator[bytes, None]:
        """Yield the zip of the worker's tokenizer files, see :func:`read_bundle`."""
        return read_bundle(self._channel, self._metadata())

    def kv_events(self) -> AsyncGenerator[KvBatch]:
        """Yield what the worker tells of its KV caches, see :func:`read_kv_events`."""
        return read_kv_events(self._channel, self._metadata())

    async def _readiness(self) -> ProbeResult:
        check = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            ready = await self._ask(rpcs.CHECK, check)
        except RpcFailed as exc:
            if exc.status not in _NOT_OFFERED:
                raise
        else:
            if ready.status == health_pb2.HealthCheckResponse.SERVING:
                return ProbeResult(True)
            return ProbeResult(
                False, "The worker is not ready: it warms up, shuts down or its engine failed."
            )
        alive = await self._ask(rpcs.HEALTH_CHECK, pb.HealthCheckRequest())
        return ProbeResult(alive.healthy, "" if alive.healthy else alive.message or "Not healthy.")

    async def _ask(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float | None = None,
    ) -> Answer:
        if self._worker.state is State.GONE:
            raise removal(was_sent=False)
        limit_s = self._control_timeout_s if timeout_s is None else timeout_s
        return await self._channel.ask(method, request, limit_s, self._metadata())

    def _metadata(self) -> Metadata:
        key = self._worker.spec.api_key
        return () if key is None else (("authorization", f"Bearer {key}"),)
