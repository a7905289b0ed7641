"""A feather-light vLLM worker: gRPC, answers at once, nothing behind it.

::

    python tests/bench/grpc_stub.py --role prefill|decode --first-word ID [--interval-us 0]

Prints ``ready PORT CONTROL_PORT``; the second port is HTTP, with the routes of ``stub.c`` that the
benchmark asks. Messages are written from bytes that were made before. grpc.aio still takes some
50 us a message here, in this process: of a gateway before it, read the CPU and not the latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from app.upstream.generated import common_pb2, health_pb2
from app.upstream.generated import vllm_engine_pb2 as pb

SERVICE = "vllm.grpc.engine.VllmEngine"
N_PROMPT_TOKENS = 300
MODEL = "stub"
Answer = Callable[[bytes, Any], Awaitable[bytes]]


class Worker:
    """The stub's settings and counters.

    Args:
        asked: The command line.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self.role: str = asked.role
        self.first_word: int = asked.first_word
        self.folder: str = asked.folder
        self.interval_s = asked.interval_us / 1e6
        self.seen: Counter[str] = Counter()
        self.engine_id = str(uuid.uuid4())

    async def generate(self, data: bytes, _context: Any) -> AsyncIterator[bytes]:
        """One message for prefill; a message a token and the end for a stream."""
        request = pb.GenerateRequest.FromString(data)
        self.seen["requests"] += 1
        n_tokens = request.sampling_params.max_tokens or 64
        told = json.loads(request.kv_transfer_params_json or "{}")
        # "rooms", as for SGLang: the leg was told what its role needs.
        if self.role == "prefill":
            self.seen["rooms"] += told.get("do_remote_decode") is True
            yield _complete(self.first_word, 1, self._handoff(request.request_id))
            return
        self.seen["rooms"] += told.get("remote_engine_id") is not None
        if request.stream:
            self.seen["streamed"] += 1
            for i in range(n_tokens):
                if self.interval_s:
                    await asyncio.sleep(self.interval_s)
                yield _chunk(self.first_word + i)
        yield _complete(self.first_word, n_tokens, "")

    def _handoff(self, request_id: str) -> str:
        return json.dumps(
            {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_block_ids": [list(range(1, 20))],
                "remote_engine_id": self.engine_id,
                "remote_request_id": request_id,
                "remote_host": "127.0.0.1",
                "remote_port": 5600,
                "tp_size": 1,
            }
        )

    def answers(self) -> dict[str, Any]:
        """The calls with one answer, by method."""
        model = pb.GetModelInfoResponse(
            model_path=self.folder,
            tokenizer_path=self.folder,
            served_model_name=MODEL,
            is_generation=True,
            max_context_length=1_048_576,
            vocab_size=self.first_word + 4096,
            model_type="llama",
            architectures=["LlamaForCausalLM"],
        )
        server = pb.GetServerInfoResponse(
            kv_connector="NixlConnector",
            kv_role="kv_producer" if self.role == "prefill" else "kv_consumer",
            kv_engine_id=self.engine_id,
            data_parallel_size=1,
            block_size=16,
            max_num_seqs=1024,
        )
        load = pb.SchedulerLoad(max_total_num_tokens=10**8, max_running_requests=1024)
        loads = pb.GetLoadsResponse(
            timestamp=datetime.now(UTC).isoformat(), version="0.32.0", dp_rank_count=1, loads=[load]
        )
        return {
            "HealthCheck": pb.HealthCheckResponse(healthy=True, message="Healthy"),
            "GetModelInfo": model,
            "GetServerInfo": server,
            "GetLoads": loads,
            "Abort": pb.AbortResponse(),
            "FlushCache": common_pb2.FlushCacheResponse(success=True),
        }

    def control(self, path: str) -> dict[str, Any]:
        """The benchmark's own routes."""
        if path.startswith("/stub/interval/"):
            self.interval_s = int(path.rpartition("/")[2]) / 1e6
            return {}
        return {name: self.seen[name] for name in ("requests", "streamed", "rooms", "cut")}


@cache
def _chunk(token_id: int) -> bytes:
    chunk = pb.GenerateStreamChunk(
        token_ids=[token_id], prompt_tokens=N_PROMPT_TOKENS, completion_tokens=1
    )
    return pb.GenerateResponse(chunk=chunk).SerializeToString()


def _complete(first_word: int, n_tokens: int, handoff: str) -> bytes:
    complete = pb.GenerateComplete(
        output_ids=range(first_word, first_word + n_tokens),
        finish_reason="length",
        prompt_tokens=N_PROMPT_TOKENS,
        completion_tokens=n_tokens,
    )
    if handoff:
        complete.kv_transfer_params_json = handoff
    return pb.GenerateResponse(complete=complete).SerializeToString()


def _fixed(message: Any) -> Answer:
    data: bytes = message.SerializeToString()

    async def answer(_request: bytes, _context: Any) -> bytes:
        return data

    return answer


def _add_calls(server: grpc.aio.Server, worker: Worker) -> None:
    calls: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(_fixed(message))
        for name, message in worker.answers().items()
    }
    calls["Generate"] = grpc.unary_stream_rpc_method_handler(worker.generate)
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    health = {"Check": grpc.unary_unary_rpc_method_handler(_fixed(serving))}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, calls),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )


async def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="A stub vLLM worker for benchmarks.")
    parser.add_argument("--role", default="decode", choices=("prefill", "decode"))
    parser.add_argument("--first-word", type=int, required=True, help='token id of " w000000"')
    parser.add_argument("--folder", default=MODEL, help="what it says its model's path is")
    parser.add_argument("--interval-us", type=int, default=0)
    worker = Worker(parser.parse_args())

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        body = json.dumps(worker.control(path)).encode()
        head = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_concurrent_streams", 4096)]
    server = grpc.aio.server(options=options)
    _add_calls(server, worker)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with await asyncio.start_server(control, "127.0.0.1", 0) as listener:
        print(f"ready {port} {listener.sockets[0].getsockname()[1]}", flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
