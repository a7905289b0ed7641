"""grpcio as the client for vLLM workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from app.upstream.failures import BrokenResponse, ConnectFailed, UpstreamError, removal
from app.upstream.grpc_tls import GrpcTls
from app.upstream.grpcio_call import GrpcioCall
from app.upstream.grpcio_failures import control_failure, failure_of
from app.upstream.vllm_channel import (
    GENERATE,
    MAX_MESSAGE_BYTES,
    Answer,
    Metadata,
    Method,
    address_of,
)
from app.upstream.vllm_status import unreadable

if TYPE_CHECKING:
    from google.protobuf.message import Message

# The engine's server allows a ping every 10 s, with no call open too. A peer that went without a
# word is found within 20 s; until then every call would go to it. Without a limit for every ping
# it took 60 s: a bandwidth probe was on its way, and the keepalive waits for that one's answer.
# Windows follow the measured bandwidth, so that a worker cannot run far ahead of a slow client.
OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 1),
    ("grpc.max_send_message_length", -1),
    # A restarted worker is found again at once; by default the wait grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Workers are reached directly, as over HTTP: no proxy, no settings from DNS.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # By default channels with equal settings share connections, also after one is closed.
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcioChannel:
    """A :class:`app.upstream.vllm_channel.VllmChannel` of grpcio.

    Args:
        url: ``grpc://host:port`` or ``grpcs://host:port``.
        tls: For ``grpcs``.
        connect_timeout_s: For name lookup, TCP and TLS of one attempt.
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
        target = f"dns:///[{host}]:{port}" if ":" in host else f"dns:///{host}:{port}"
        options = (
            *OPTIONS,
            ("grpc.min_reconnect_backoff_ms", int(connect_timeout_s * 1000)),
            ("grpc.max_receive_message_length", max_message_bytes),
        )
        if is_secure:
            tls = tls or GrpcTls()
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
        # The same bytes as a call with one message, but the request is written in a step of its
        # own: how far a failed call got is then known and not guessed from an error text.
        self._generate: Any = self._channel.stream_stream(
            GENERATE.path,
            response_deserializer=GENERATE.answer.FromString,
        )
        self._is_closed = False
        self._was_connected = False
        self.n_losses = 0

    @property
    def is_connected(self) -> bool:
        """The connection is up, as far as this side knows."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    def check(self) -> None:
        """As asked for; grpcio has an error of its own for a closed channel."""
        if self._is_closed:
            raise removal(was_sent=False)

    def look(self) -> None:
        """As asked for. A lost connection is only made anew by a call, so none is missed."""
        is_connected = self.is_connected
        if self._was_connected and not is_connected:
            self.n_losses += 1
        self._was_connected = is_connected

    def failure(self, exc: grpc.aio.AioRpcError) -> UpstreamError:
        """Say what a failed call was, and take note if the connection broke under it."""
        failed = failure_of(exc, is_connected=self.is_connected)
        if isinstance(failed, BrokenResponse) and self._was_connected:
            self.n_losses += 1
            self._was_connected = False
        return failed

    def generate(self, metadata: Metadata) -> GrpcioCall:
        """As asked for."""
        return GrpcioCall(self, self._generate, metadata)

    async def ask(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float,
        metadata: Metadata,
    ) -> Answer:
        """As asked for."""
        self.check()
        self.look()
        rpc: Any = self._channel.unary_unary(
            method.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        try:
            answer: Answer | None = await rpc(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as exc:
            raise control_failure(self, exc, timeout_s) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The channel was closed under the call.
            raise ConnectFailed("The connection to the worker was closed.") from None
        finally:
            self.look()
        return _readable(answer)

    async def stream(
        self,
        method: Method[Answer],
        request: Message,
        timeout_s: float | None,
        metadata: Metadata,
    ) -> AsyncGenerator[Answer, None]:
        """As asked for."""
        self.check()
        rpc: Any = self._channel.unary_stream(
            method.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        call = rpc(request, timeout=timeout_s, metadata=metadata)
        try:
            async for message in call:
                yield _readable(message)
        except grpc.aio.AioRpcError as exc:
            raise control_failure(self, exc, timeout_s) from None
        finally:
            call.cancel()

    async def aclose(self) -> None:
        """As asked for."""
        self._is_closed = True
        await self._channel.close()


def _readable(message: Answer | None) -> Answer:
    """Returns a message; grpcio gives ``None`` for one that it could not read."""
    if message is None:
        raise unreadable()
    return message
