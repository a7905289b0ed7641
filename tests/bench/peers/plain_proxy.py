"""A prefill/decode proxy as many write it first: one FastAPI app, httpx, both legs by kv_transfer.

::

    python tests/bench/peers/plain_proxy.py --prefill URL --decode URL --port N

It works in the way of the example proxies of vLLM's documentation: prefill is asked for one token
and for its handoff, then decode is asked with that, and its answer is passed on as it comes. There
is no choice of workers, no limit, no retry and no abort; it is here to be measured beside.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

_ASKS_FOR_HANDOFF = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def make_app(prefill_url: str, decode_url: str) -> FastAPI:
    """The proxy of one pair."""
    clients: dict[str, httpx.AsyncClient] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(base_url=prefill_url, timeout=600, limits=limits) as prefill,
            httpx.AsyncClient(base_url=decode_url, timeout=600, limits=limits) as decode,
        ):
            clients.update(prefill=prefill, decode=decode)
            yield

    app = FastAPI(lifespan=lifespan)

    async def handoff(path: str, body: dict[str, Any]) -> Any:
        one_token = body | {"max_tokens": 1, "stream": False}
        one_token.pop("stream_options", None)
        asked = one_token | {"kv_transfer_params": _ASKS_FOR_HANDOFF}
        answer = await clients["prefill"].post(path, json=asked)
        answer.raise_for_status()
        return answer.json().get("kv_transfer_params")

    async def decoded(path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        async with clients["decode"].stream("POST", path, json=body) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                yield piece

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def generate(request: Request) -> StreamingResponse:
        path, body = request.url.path, await request.json()
        body["kv_transfer_params"] = await handoff(path, body)
        media_type = "text/event-stream" if body.get("stream") else "application/json"
        return StreamingResponse(decoded(path, body), media_type=media_type)

    return app


async def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="A plain proxy of one prefill/decode pair.")
    parser.add_argument("--prefill", required=True)
    parser.add_argument("--decode", required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    app = make_app(asked.prefill, asked.decode)
    config = uvicorn.Config(app, port=asked.port, log_level="warning", timeout_keep_alive=60)
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main())
