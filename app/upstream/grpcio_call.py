"""One Generate call of grpcio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from app.upstream.failures import CallCancelled, ConnectFailed, ConnectTimeout
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_channel import Metadata
from app.upstream.vllm_status import unreadable

if TYPE_CHECKING:
    from app.upstream.grpcio_channel import GrpcioChannel

_Call: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"


class GrpcioCall:
    """An :class:`app.upstream.vllm_channel.Rpc` of grpcio.

    It is taken in two steps. First only the head of the call is sent, which needs a connection:
    if that fails, the request itself never left this process, so nothing reached an engine,
    whatever the error text says. Then the request is written.

    Args:
        channel: Where.
        make: Makes the call.
        metadata: Sent with it.
    """

    def __init__(
        self, channel: GrpcioChannel, make: Callable[..., _Call], metadata: Metadata
    ) -> None:
        self._channel = channel
        self._make = make
        self._metadata = metadata
        self._call: _Call | None = None
        self.was_sent = False

    async def connect(self, timeout_s: float | None) -> None:
        """As asked for."""
        call = self._call = self._make(metadata=self._metadata)
        try:
            async with asyncio.timeout(timeout_s):
                await call.wait_for_connection()
        except TimeoutError:
            raise ConnectTimeout(f"No connection to the worker within {timeout_s:g} s.") from None
        except grpc.aio.AioRpcError as exc:
            raise ConnectFailed(f"No connection to the worker: {exc.details()}") from None
        except asyncio.CancelledError as exc:
            raise _cause(exc) from None
        if call.done():
            raise ConnectFailed("The connection was lost before the request was sent.")

    async def send(self, request: bytes) -> None:
        """As asked for."""
        call = self._made()
        self.was_sent = True
        try:
            await call.write(request)
            await call.done_writing()
        except grpc.aio.AioRpcError as exc:
            raise self._channel.failure(exc) from None
        except asyncio.CancelledError as exc:
            raise _cause(exc) from None
        except asyncio.InvalidStateError:
            # The worker ended the call before it had the whole request; reading tells its status.
            return

    async def read(
        self,
        sink: Callable[[list[bytes]], bool] | None = None,  # noqa: ARG002 - grpcio has no such way
    ) -> Sequence[pb.GenerateResponse]:
        """As asked for."""
        try:
            message: Any = await self._made().read()
        except grpc.aio.AioRpcError as exc:
            raise self._channel.failure(exc) from None
        except asyncio.CancelledError as exc:
            raise _cause(exc) from None
        if message is grpc.aio.EOF:
            return ()
        if message is None:
            # That is how grpcio tells of bytes that it could not read.
            raise unreadable()
        return (message,)

    def cancel(self) -> None:
        """As asked for."""
        if self._call is not None and not self._call.done():
            self._call.cancel()

    def _made(self) -> _Call:
        if self._call is None:
            raise RuntimeError("The call is not connected.")
        return self._call


def _cause(exc: asyncio.CancelledError) -> BaseException:
    """Tell a cancelled task from a cancelled call: grpcio raises the same for both."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return exc
    return CallCancelled()
