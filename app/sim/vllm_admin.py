"""What a simulated vLLM worker says of itself: health, metadata, loads, tokenizer files."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio

from app.sim.vllm_config import VllmConfig
from app.sim.vllm_counters import VllmCounters
from app.sim.vllm_engine import VllmEngine
from app.sim.vllm_faults import VllmFaultBook, VllmFaultKind
from app.sim.vllm_kv_events import following
from app.sim.vllm_tokens import SimTokenizer
from app.upstream.generated import common_pb2, health_pb2, health_pb2_grpc
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.generated.vllm_engine_pb2_grpc import VllmEngineServicer

SERVICE = "vllm.grpc.engine.VllmEngine"
CHUNK_BYTES = 64 * 1024
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.json",
    "chat_template.jinja",
)
_Context = grpc.aio.ServicerContext[Any, Any]


class VllmAdmin(VllmEngineServicer):
    """Every RPC but Generate and Abort; embeddings and profiling are UNIMPLEMENTED.

    Args:
        config: The worker.
        engine: Its engine.
        counters: Where it counts.
        faults: What it shall do wrong.
        tokenizer: The engine's.
    """

    def __init__(
        self,
        config: VllmConfig,
        engine: VllmEngine,
        counters: VllmCounters,
        faults: VllmFaultBook,
        tokenizer: SimTokenizer,
    ) -> None:
        self._config = config
        self._engine = engine
        self._counters = counters
        self._faults = faults
        self._tokenizer = tokenizer

    async def HealthCheck(
        self, request: pb.HealthCheckRequest, context: _Context
    ) -> pb.HealthCheckResponse:
        """Alive while the process is, also when it is not ready."""
        await self._faulty("HealthCheck", context)
        return pb.HealthCheckResponse(healthy=True, message="Healthy")

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: _Context
    ) -> pb.GetModelInfoResponse:
        """The model."""
        await self._faulty("GetModelInfo", context)
        config = self._config
        defaults = dict(config.default_sampling)
        return pb.GetModelInfoResponse(
            model_path=config.model_id,
            is_generation=True,
            max_context_length=config.context_length,
            vocab_size=self._tokenizer.n_vocab,
            served_model_name=config.model_id,
            tokenizer_path=str(config.tokenizer_folder or config.model_id),
            model_type="llama",
            architectures=["LlamaForCausalLM"],
            eos_token_ids=[self._tokenizer.eos_id],
            max_req_input_len=config.context_length,
            default_sampling_params_json=(
                json.dumps(defaults, separators=(",", ":")) if defaults else ""
            ),
        )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: _Context
    ) -> pb.GetServerInfoResponse:
        """The engine; fields 1 to 5 stay empty, as the current servicer leaves them."""
        await self._faulty("GetServerInfo", context)
        config = self._config
        return pb.GetServerInfoResponse(
            kv_connector=config.connector,
            kv_role=config.own_kv_role,
            kv_engine_id=self._engine.connector.engine_id if config.connector else "",
            data_parallel_size=config.dp_size,
            kv_cache_dtype=config.kv_cache_dtype,
            block_size=config.block_size,
            model_dtype=config.model_dtype,
            pairing_protocol=config.pairing_protocol,
            max_num_seqs=config.max_num_seqs,
            engine_reasoning_parser=config.reasoning_parser,
            constrained_decoding_start=(
                "after_reasoning" if config.reasoning_parser else "first_token"
            ),
        )

    async def GetLoads(self, request: pb.GetLoadsRequest, context: _Context) -> pb.GetLoadsResponse:
        """The numbers of every rank."""
        await self._faulty("GetLoads", context)
        return pb.GetLoadsResponse(
            timestamp=datetime.now(UTC).isoformat(),
            version=self._config.version,
            dp_rank_count=self._config.dp_size,
            loads=[self._load(number) for number in range(self._config.dp_size)],
        )

    def _load(self, number: int) -> pb.SchedulerLoad:
        rank, capacity = self._engine.ranks[number], self._config.max_total_tokens
        n_used = capacity - rank.n_room
        # A sequence whose KV is on its way counts as waiting, as in vLLM.
        waiting = [
            *rank.waiting,
            *rank.arrived,
            *(job for job in rank.receiving if not job.is_over),
        ]
        hit_rate = rank.n_cached / rank.n_asked if rank.n_asked else 0.0
        return pb.SchedulerLoad(
            dp_rank=number,
            num_running_reqs=len(rank.running),
            num_waiting_reqs=len(waiting),
            num_total_reqs=len(rank.running) + len(waiting),
            num_used_tokens=n_used,
            max_total_num_tokens=capacity,
            token_usage=n_used / capacity,
            utilization=n_used / capacity,
            cache_hit_rate=hit_rate,
            max_running_requests=self._config.max_num_seqs,
            num_waiting_uncached_tokens=int(
                sum(job.n_prompt for job in rank.waiting) * (1 - hit_rate)
            ),
        )

    async def FlushCache(
        self, request: common_pb2.FlushCacheRequest, context: _Context
    ) -> common_pb2.FlushCacheResponse:
        """Empty the prefix cache unless requests run."""
        await self._faulty("FlushCache", context)
        if not self._engine.flush():
            return common_pb2.FlushCacheResponse(success=False, message="Requests are running.")
        self._counters.n_flushes += 1
        return common_pb2.FlushCacheResponse(success=True, message="Cache flushed.")

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: _Context
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        """The tokenizer folder as a zip in pieces, the digest in the last."""
        fault = await self._faulty("GetTokenizer", context)
        folder = self._config.tokenizer_folder
        if folder is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "The worker has no tokenizer.")
        data = zip_of(folder)
        digest = hashlib.sha256(data).hexdigest()
        if fault is VllmFaultKind.WRONG_DIGEST:
            digest = hashlib.sha256(b"something else").hexdigest()
        for start in range(0, len(data), CHUNK_BYTES):
            is_last = start + CHUNK_BYTES >= len(data)
            yield common_pb2.GetTokenizerChunk(
                data=data[start : start + CHUNK_BYTES], sha256=digest if is_last else ""
            )

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        """Not offered."""
        return await _not_offered(context)

    async def StartProfile(
        self, request: common_pb2.StartProfileRequest, context: _Context
    ) -> common_pb2.ProfileResponse:
        """Not offered."""
        return await _not_offered(context)

    async def StopProfile(
        self, request: common_pb2.StopProfileRequest, context: _Context
    ) -> common_pb2.ProfileResponse:
        """Not offered."""
        return await _not_offered(context)

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: _Context
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        """What all ranks tell of their caches from now on, where KV events are configured."""
        if not self._config.has_kv_events:
            yield await _not_offered(context)
        await self._faulty("SubscribeKvEvents", context)
        if request.start_sequence_number:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "There is no history.")
        with following(self._engine.ranks) as told:
            await context.send_initial_metadata(())
            while True:
                yield await told.get()

    async def _faulty(self, rpc: str, context: _Context) -> VllmFaultKind | None:
        """Do what the fault for this call says; returns its kind if it is left to the caller."""
        fault = self._faults.take(rpc)
        if fault is None:
            return None
        if fault.kind is VllmFaultKind.REFUSE:
            trailing = tuple(fault.trailing.items())
            await context.abort(grpc.StatusCode[fault.status], fault.message, trailing)
        if fault.kind is VllmFaultKind.HANG:
            await asyncio.Event().wait()
        if fault.kind is VllmFaultKind.SLOW:
            await asyncio.sleep(fault.delay_s)
        return fault.kind


class Readiness(health_pb2_grpc.HealthServicer):
    """The standard health service: the empty name lives, the engine's name takes requests."""

    def __init__(self, faults: VllmFaultBook) -> None:
        self._faults = faults

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """One status."""
        fault = self._faults.take("Check")
        if fault is not None and fault.kind is VllmFaultKind.HANG:
            await asyncio.Event().wait()
        if fault is not None and fault.kind is VllmFaultKind.REFUSE:
            await context.abort(grpc.StatusCode[fault.status], fault.message)
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """One status, and the end: vLLM's is no subscription."""
        yield health_pb2.HealthCheckResponse(status=self._status(request.service))

    def _status(self, name: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        if name not in ("", SERVICE):
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if name and self._faults.health_down:
            return health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse.SERVING


async def _not_offered(context: _Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "The simulator does not offer this.")


def zip_of(folder: Path) -> bytes:
    """The tokenizer files of a folder that exist, under flat names."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _FILES:
            if (folder / name).is_file():
                archive.write(folder / name, name)
    return target.getvalue()
