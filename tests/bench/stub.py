"""The stub worker of ``stub.c`` on asyncio, for machines without a C compiler.

::

    python tests/bench/stub.py --role prefill|decode --port N [--events 64] [--interval-us 0]

Same routes, same bytes on the wire, some ten times slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any

ID = "4045253c1ea64a908c3887c84014e314"
_ROUTES = {"/v1/chat/completions": "chat", "/v1/completions": "text", "/generate": "generate"}
_EMPTY = {"/health", "/health_generate", "/ready", "/flush_cache"}
_KEY = re.compile(rb'"(stream|max_tokens|max_new_tokens|bootstrap_room)":\s*(true|false|\[?\d+)')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass(slots=True)
class Worker:
    """The stub's settings and counters."""

    role: str
    n_events: int
    interval_s: float
    port: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    open_streams: deque[tuple[float, Connection]] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def info(self, path: str) -> dict[str, Any] | None:
        """The JSON of a GET or control route; None for one that SGLang does not have."""
        if path == "/v1/models":
            model = {"id": "stub", "object": "model", "owned_by": "sglang", "root": "stub"}
            return {"object": "list", "data": [model | {"max_model_len": 8388608}]}
        if path in ("/server_info", "/get_server_info", "/model_info", "/get_model_info"):
            common = {"model_path": "stub", "served_model_name": "stub", "version": "0.5.23"}
            sizes = {"tp_size": 1, "dp_size": 1, "page_size": 16, "max_running_requests": 16384}
            mode = {"disaggregation_mode": self.role, "disaggregation_bootstrap_port": self.port}
            return common | sizes | mode | {"is_generation": True, "model_type": "llama"}
        if path == "/v1/loads":
            load: dict[str, Any] = {"dp_rank": 0, "num_waiting_reqs": 0, "num_used_tokens": 0}
            load |= {"timestamp": time.monotonic(), "num_running_reqs": len(self.open_streams)}
            load |= {"max_total_num_tokens": 10**8, "token_usage": 0.0, "gen_throughput": 0.0}
            return {"version": "0.5.23", "loads": [load]}
        if path == "/stub/stats":
            names = ("requests", "streamed", "rooms", "handoffs", "cut", "aborts", "connections")
            return {name: self.seen[name] for name in names}
        if path.startswith("/stub/interval/"):
            self.interval_s = int(path.rpartition("/")[2]) / 1e6
            return {}
        if path == "/abort_request":
            self.seen["aborts"] += 1
            return {}
        return None

    async def emit_for_ever(self) -> None:
        """Sends events when they are due; streams stand in the order of their next event."""
        while True:
            await self.woken.wait()
            now_s = time.monotonic()
            for _ in range(len(self.open_streams)):
                due_s, connection = self.open_streams[0]
                if due_s > now_s:
                    break
                self.open_streams.popleft()
                connection.emit(due_s + self.interval_s)
            if not self.open_streams:
                self.woken.clear()
                continue
            await asyncio.sleep(max(0.0, self.open_streams[0][0] - time.monotonic()))


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._received = bytearray()
        self._event = self._n_events = 0
        self._kind = ""
        self._streaming = self._lost = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._worker.seen["connections"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts a stream that was cut."""
        self._lost = True
        self._worker.seen["connections"] -= 1
        self._worker.seen["cut"] += self._streaming

    def data_received(self, data: bytes) -> None:
        """Answers every complete request unless a stream is under way."""
        self._received += data
        while not self._streaming and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < total:
                return
            body = bytes(self._received[end + 4 : total])
            del self._received[:total]
            self._serve(head.split(b" ", 2)[1].partition(b"?")[0].decode(), body)

    def emit(self, due_s: float) -> None:
        """Writes the next event and asks for another turn, or ends the stream."""
        if self._lost:
            return
        if self._event < self._n_events - 1:
            self._transport.write(_event(self._kind, self._event))
            self._event += 1
            self._worker.open_streams.append((due_s, self))
            self._worker.woken.set()
        else:
            done = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
            self._transport.write(_event(self._kind, -1) + done)
            self._streaming = False
            self.data_received(b"")

    def _serve(self, path: str, body: bytes) -> None:
        worker = self._worker
        if kind := _ROUTES.get(path):
            keys: dict[bytes, bytes] = dict(_KEY.findall(body))
            worker.seen["requests"] += 1
            worker.seen["rooms"] += b"bootstrap_room" in keys
            hands_over = b'"kv_transfer_params":' in body
            worker.seen["handoffs"] += hands_over
            if hands_over and worker.role == "prefill":
                self._transport.write(_handing_off())
                return
            if keys.get(b"stream") != b"true":
                self._transport.write(_document(kind))
                return
            asked = keys.get(b"max_tokens") or keys.get(b"max_new_tokens") or b"0"
            n_events = int(asked) or worker.n_events
            worker.seen["streamed"] += 1
            self._kind, self._event, self._streaming = kind, 0, True
            self._n_events = 1 if worker.role == "prefill" else n_events
            self._transport.write(_STREAM_HEAD)
            self.emit(time.monotonic() + worker.interval_s)
            return
        info = worker.info(path)
        if info is None:
            status = 200 if path in _EMPTY else 404
            self._transport.write(_reply(status, b"" if status == 200 else b'{"detail":"?"}'))
        else:
            self._transport.write(_reply(200, json.dumps(info).encode()))


def _reply(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@cache
def _handing_off() -> bytes:
    """A chat answer of vLLM's prefill, as its NIXL connector has it."""
    params: dict[str, Any] = {"do_remote_prefill": True, "remote_block_ids": [1, 2, 3, 4]}
    params |= {"do_remote_decode": False, "remote_engine_id": "stub", "remote_port": 5600}
    answer = json.loads(_document("chat").partition(b"\r\n\r\n")[2])
    return _reply(200, json.dumps(answer | {"kv_transfer_params": params}).encode())


@cache
def _document(kind: str) -> bytes:
    usage = {"prompt_tokens": 37, "total_tokens": 45, "completion_tokens": 8}
    if kind == "generate":
        meta = usage | {"id": ID, "finish_reason": {"type": "length", "length": 8}}
        return _reply(200, json.dumps({"text": " Paris.", "meta_info": meta}).encode())
    said = {"message": {"role": "assistant", "content": "It is Paris." * 20}}
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    choice |= {"text": " Paris." * 30} if kind == "text" else said
    answer = {"id": ID, "object": "chat.completion", "created": 1, "model": "stub"}
    return _reply(200, json.dumps(answer | {"choices": [choice], "usage": usage}).encode())


@cache
def _event(kind: str, i: int) -> bytes:
    """Event ``i`` as one chunk; -1 is the event that finishes a stream."""
    text = f" w{i:06d}" if i >= 0 else ""
    reason = None if i >= 0 else "length"
    event: dict[str, Any] = {"id": ID, "object": "chat.completion.chunk", "created": 1795422862}
    choice = {"index": 0, "logprobs": None, "finish_reason": reason, "matched_stop": None}
    if kind == "generate":
        end = {"type": reason} if reason else None
        event = {"text": text, "meta_info": {"id": ID, "finish_reason": end, "prompt_tokens": 37}}
    elif kind == "text":
        event |= {"model": "stub", "choices": [{"text": text} | choice]}
    else:
        delta = {"reasoning_content": None} | ({"content": text} if text else {})
        event |= {"model": "stub", "choices": [{"delta": delta} | choice]}
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="A stub SGLang worker for benchmarks.")
    parser.add_argument("--role", default="decode", choices=("prefill", "decode"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--events", type=int, default=64)
    parser.add_argument("--interval-us", type=int, default=0)
    asked = parser.parse_args()
    worker = Worker(asked.role, asked.events, asked.interval_us / 1e6)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(worker), "127.0.0.1", asked.port, backlog=4096
    )
    worker.port = server.sockets[0].getsockname()[1]
    print(f"ready {worker.port}", flush=True)
    await worker.emit_for_ever()


if __name__ == "__main__":
    asyncio.run(main())
