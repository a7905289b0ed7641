"""Our own gRPC client for vLLM workers.

It knows what these workers need and no more: one message to the worker a call, no compression,
answers as they come. An awaited message costs about a third of grpcio's asyncio client.

Source: gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache
from typing import TYPE_CHECKING

from app.upstream.failures import (
    BrokenResponse,
    CallCancelled,
    ConnectFailed,
    RpcFailed,
    SilenceTimeout,
    UpstreamError,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.grpc_call import GrpcCall
from app.upstream.grpc_tls import GrpcTls
from app.upstream.h2_channel import H2Channel
from app.upstream.h2_header_block import encoded
from app.upstream.vllm_channel import (
    GENERATE,
    MAX_MESSAGE_BYTES,
    Answer,
    Metadata,
    Method,
    address_of,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MAX_TIMEOUT_MS = 99_999_999
"""A timeout has eight digits at most."""


class GrpcChannel(H2Channel):
    """A :class:`app.upstream.vllm_channel.VllmChannel` of our own.

    Args:
        url: ``grpc://host:port`` or ``grpcs://host:port``.
        tls: For ``grpcs``.
        connect_timeout_s: For name lookup, TCP, TLS and HTTP/2's greeting of one attempt.
        max_message_bytes: Longest message of the worker that is taken.

    Raises:
        ValueError: Another scheme.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: GrpcTls | None = None,
        connect_timeout_s: float = 10.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        host, port, is_secure = address_of(url)
        super().__init__(
            host,
            port,
            (tls or GrpcTls()).client_context() if is_secure else None,
            connect_timeout_s,
        )
        self._scheme = "https" if is_secure else "http"
        self._max_message_bytes = max_message_bytes
        self._generate_head = self._head(GENERATE.path)

    def generate(self, metadata: Metadata) -> GrpcCall[pb.GenerateResponse]:
        """See :class:`app.upstream.vllm_channel.VllmChannel`."""
        block = self._generate_head + _encoded(metadata) if metadata else self._generate_head
        return GrpcCall(self, block, GENERATE.answer, self._max_message_bytes)

    async def ask(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float,
        metadata: Metadata,
    ) -> Answer:
        """See :class:`app.upstream.vllm_channel.VllmChannel`."""
        answer = None
        async with aclosing(self.stream(method, request, timeout_s, metadata)) as answers:
            async for each in answers:
                if answer is not None:
                    raise BrokenResponse("The worker sent several answers in the place of one.")
                answer = each
        if answer is None:
            raise BrokenResponse("The worker sent no answer.")
        return answer

    async def stream(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float | None,
        metadata: Metadata,
    ) -> AsyncGenerator[Answer, None]:
        """See :class:`app.upstream.vllm_channel.VllmChannel`."""
        self.check()
        until_s = None
        if timeout_s is not None:
            until_s = asyncio.get_running_loop().time() + timeout_s
            n_ms = min(_MAX_TIMEOUT_MS, math.ceil(timeout_s * 1000))
            metadata = (("grpc-timeout", f"{n_ms}m"), *metadata)
        block = self._head(method.path) + _encoded(metadata)
        call = GrpcCall(self, block, method.answer, self._max_message_bytes)
        try:
            async with asyncio.timeout_at(until_s):
                await call.connect(None)
                await call.send(request)
            while True:
                async with asyncio.timeout_at(until_s):
                    answers = await call.read()
                if not answers:
                    return
                for answer in answers:
                    yield answer
        except (UpstreamError, CallCancelled, TimeoutError) as exc:
            raise self._control_failure(exc, timeout_s) from None
        finally:
            call.cancel()

    def _control_failure(self, exc: Exception, timeout_s: float | None) -> Exception:
        """Say what a failed control call was; these may be sent again, so "sent" is no matter."""
        if isinstance(exc, CallCancelled):
            return ConnectFailed("The connection to the worker was closed.")
        is_late = isinstance(exc, RpcFailed) and exc.status == "DEADLINE_EXCEEDED"
        if timeout_s is not None and (is_late or isinstance(exc, TimeoutError)):
            return SilenceTimeout(f"The worker gave no answer in {timeout_s:g} s.", phase="head")
        if isinstance(exc, BrokenResponse) and not self.is_connected:
            return ConnectFailed(str(exc))
        return exc

    def _head(self, path: str) -> bytes:
        """The part of a header block that every call of a method has."""
        return encoded(
            (
                (":method", "POST"),
                (":scheme", self._scheme),
                (":path", path),
                (":authority", self.where),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "tandem"),
                ("grpc-accept-encoding", "identity"),
            )
        )


@lru_cache(maxsize=64)
def _encoded(metadata: Metadata) -> bytes:
    try:
        return encoded(metadata)
    except ValueError as fault:
        raise ConnectFailed(f"The call cannot be written: {fault}") from None
