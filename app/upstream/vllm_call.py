"""One generation on one worker: from the connection to the last message."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from app.protocol.engine import Chunk, Complete
from app.upstream.failures import (
    BrokenResponse,
    ConnectFailed,
    ConnectTimeout,
    RpcFailed,
    SilenceTimeout,
    UpstreamError,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_channel import VllmChannel
from app.upstream.vllm_control import readable
from app.upstream.vllm_messages import from_wire
from app.upstream.vllm_open_calls import OpenCalls
from app.upstream.vllm_silence import SilenceClock
from app.upstream.vllm_status import HTTP_STATUS

_Rpc: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"


class VllmCall:
    """Made by :meth:`app.upstream.vllm_worker.VllmWorker.generate`.

    ``async with`` connects, then writes the request; ``async for`` yields the messages; leaving
    the block before the last one cancels the call, which the worker sees as a stream reset. A
    cancelled task cancels its call, too. :meth:`connect`, :meth:`send` and :meth:`cancel` are the
    same by hand.

    Entering takes the call in two steps. First only the head of the call is sent, which needs a
    connection: if that fails, the request itself never left this process, so nothing reached an
    engine, whatever the error text says (``ConnectFailed``, and ``sent`` stays False). Then the
    request is written: from there on ``sent`` is True and the engine may have taken it.

    Raises (entering and iterating):
        ConnectFailed, ConnectTimeout: Nothing reached an engine; only when entering.
        SilenceTimeout: No first message in time (phase ``head``) or a gap was too long.
        BrokenResponse: The connection was lost, or the answer ended without ``Complete``.
        RpcFailed: The worker ended the call with an error status.

    Args:
        open_calls: Where the call counts as open, from its connecting to its end.

    Attributes:
        sent: A byte of the request may have reached the engine.
        n_messages: What the worker sent so far.
    """

    def __init__(
        self,
        channel: VllmChannel,
        request: pb.GenerateRequest,
        open_calls: OpenCalls,
        *,
        metadata: tuple[tuple[str, str], ...] = (),
        connect_timeout_s: float | None = None,
        first_timeout_s: float | None = None,
        gap_timeout_s: float | None = None,
    ) -> None:
        self.sent = False
        self.n_messages = 0
        self._open_calls = open_calls
        self._ended_by: UpstreamError | None = None
        self._channel = channel
        self._request = request
        self._metadata = metadata
        self._connect_timeout_s = connect_timeout_s
        self._first_timeout_s = first_timeout_s
        self._gap_timeout_s = gap_timeout_s
        self._call: _Rpc | None = None
        self._is_cancelled = False
        self._is_over = False
        self._is_complete = False
        self._clock = SilenceClock(self._end_call)

    async def __aenter__(self) -> Self:
        await self.connect()
        await self.send()
        return self

    async def connect(self) -> None:
        """Send the head of the call, so that the connection is known to be there."""
        if self._ended_by is not None:
            raise self._ended_by
        if self._is_cancelled:
            raise _cancelled_here()
        self._channel.check()
        self._open_calls.add(self)
        self._channel.look()
        call: _Rpc = self._channel.generate(metadata=self._metadata)
        self._call = call
        try:
            await self._connect(call)
        except BaseException:
            self.cancel()
            raise
        finally:
            self._channel.look()

    async def send(self) -> None:
        """Write the request; from here on the engine may have it."""
        if self._call is None:
            raise RuntimeError("The call is not connected.")
        try:
            await self._write(self._call)
        except BaseException:
            self.cancel()
            raise
        finally:
            self._channel.look()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
        self._channel.look()

    def cancel(self) -> None:
        """End the call now; a call that is over stays as it is."""
        self._is_cancelled = True
        self._open_calls.discard(self)
        self._clock.stop()
        self._end_call()

    def fail(self, failure: UpstreamError) -> None:
        """End the call now; whoever reads it meets the failure. The first one counts."""
        if self._ended_by is None:
            self._ended_by = failure
            self._end_call()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk | Complete:
        call = self._call
        if call is None:
            raise RuntimeError("The call was not entered.")
        while not self._is_over:
            if self.n_messages:
                self._clock.start(self._gap_timeout_s)
            try:
                message: Any = await call.read()
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as exc:
                self._is_over = True
                failure = self._failure(exc)
                if self._is_complete and failure is not exc:
                    # Everything was said; how the call itself ended does not matter.
                    break
                try:
                    raise failure from None
                finally:
                    # The frame must not keep the error that keeps the frame.
                    del failure
            self._clock.rest()
            if message is grpc.aio.EOF:
                self._is_over = True
                break
            self.n_messages += 1
            said = from_wire(readable(message))
            if said is not None:
                if type(said) is Complete:
                    self._is_complete = True
                return said
        if not self._is_complete:
            self._is_complete = True
            raise BrokenResponse("The worker ended the answer without completing it.")
        raise StopAsyncIteration

    async def _connect(self, call: _Rpc) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await call.wait_for_connection()
        except TimeoutError:
            raise ConnectTimeout(
                f"No connection to the worker within {self._connect_timeout_s:g} s."
            ) from None
        except grpc.aio.AioRpcError as exc:
            raise ConnectFailed(f"No connection to the worker: {exc.details()}") from None
        except asyncio.CancelledError as exc:
            raise self._failure(exc) from None
        if call.done():
            raise ConnectFailed("The connection was lost before the request was sent.")

    async def _write(self, call: _Rpc) -> None:
        self._clock.start(self._first_timeout_s)
        self.sent = True
        try:
            await call.write(self._request)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as exc:
            raise self._failure(exc) from None
        except asyncio.InvalidStateError:
            # The worker ended the call before it had the whole request; reading tells its status.
            return

    def _end_call(self) -> None:
        if self._call is not None and not self._call.done():
            self._call.cancel()

    def _failure(self, exc: grpc.aio.AioRpcError | asyncio.CancelledError) -> BaseException:
        """Say what a step failed of; grpcio raises CancelledError for cancelled calls, too."""
        if isinstance(exc, grpc.aio.AioRpcError):
            return self._channel.failure(exc)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return exc
        if self._ended_by is not None:
            return self._ended_by
        if not self._clock.has_struck:
            return _cancelled_here()
        if self.n_messages:
            text = f"The worker sent nothing for {self._gap_timeout_s:g} s."
            return SilenceTimeout(text, phase="body")
        text = f"The worker sent no first token within {self._first_timeout_s:g} s."
        return SilenceTimeout(text, phase="head")


def _cancelled_here() -> RpcFailed:
    return RpcFailed(
        "CANCELLED", HTTP_STATUS["CANCELLED"], "The call was cancelled by the gateway."
    )
