"""One generation on one worker: from the connection to the last message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from app.protocol.engine import Chunk, Complete
from app.upstream.failures import BrokenResponse, CallCancelled, SilenceTimeout, UpstreamError
from app.upstream.vllm_channel import Metadata, Rpc, VllmChannel
from app.upstream.vllm_messages import chunks_of, from_wire
from app.upstream.vllm_open_calls import OpenCalls
from app.upstream.vllm_silence import SilenceClock
from app.upstream.vllm_status import cancelled_here


class VllmCall:
    """Made by :meth:`app.upstream.vllm_worker.VllmWorker.generate`.

    ``async with`` connects, then writes the request; ``async for`` yields the messages, and
    :meth:`read` all that are there; leaving the block before the last one cancels the call, which
    the worker sees as a stream reset. A cancelled task cancels its call, too. :meth:`connect`,
    :meth:`send` and :meth:`cancel` are the same by hand.

    Entering takes the call in two steps. First there must be a connection: if that fails, nothing
    of the request left this process, so nothing reached an engine, whatever the error text says
    (``ConnectFailed``, and ``sent`` stays False). Then the request is written: from there on
    ``sent`` is True and the engine may have taken it.

    Raises (entering and iterating):
        ConnectFailed, ConnectTimeout: Nothing reached an engine; when entering, or when the
            worker says so afterwards.
        SilenceTimeout: No first message in time (phase ``head``) or a gap was too long.
        BrokenResponse: The connection was lost, or the answer ended without ``Complete``.
        RpcFailed: The worker ended the call with an error status.

    Args:
        request: A ``GenerateRequest`` as bytes.
        open_calls: Where the call counts as open, from its connecting to its end.

    Attributes:
        n_messages: What the worker sent so far.
    """

    def __init__(
        self,
        channel: VllmChannel,
        request: bytes,
        open_calls: OpenCalls,
        *,
        metadata: Metadata = (),
        connect_timeout_s: float | None = None,
        first_timeout_s: float | None = None,
        gap_timeout_s: float | None = None,
    ) -> None:
        self.n_messages = 0
        self._open_calls = open_calls
        self._ended_by: UpstreamError | None = None
        self._channel = channel
        self._request = request
        self._metadata = metadata
        self._connect_timeout_s = connect_timeout_s
        self._first_timeout_s = first_timeout_s
        self._gap_timeout_s = gap_timeout_s
        self._rpc: Rpc | None = None
        self._is_cancelled = False
        self._is_over = False
        self._is_complete = False
        self._unread: list[Chunk | Complete] = []
        self._clock = SilenceClock(self._end_call)

    @property
    def sent(self) -> bool:
        """A byte of the request may have reached the engine."""
        return self._rpc is not None and self._rpc.was_sent

    async def __aenter__(self) -> Self:
        await self.connect()
        await self.send()
        return self

    async def connect(self) -> None:
        """Make sure that there is a connection."""
        if self._ended_by is not None:
            raise self._ended_by
        if self._is_cancelled:
            raise cancelled_here()
        self._channel.check()
        self._open_calls.add(self)
        try:
            self._channel.look()
            self._rpc = self._channel.generate(self._metadata)
            await self._rpc.connect(self._connect_timeout_s)
        except BaseException as exc:
            self.cancel()
            if isinstance(exc, CallCancelled):
                raise self._failure() from None
            raise
        finally:
            self._channel.look()

    async def send(self) -> None:
        """Write the request; from here on the engine may have it."""
        if self._rpc is None:
            raise RuntimeError("The call is not connected.")
        self._clock.start(self._first_timeout_s)
        try:
            await self._rpc.send(self._request)
        except BaseException as exc:
            self.cancel()
            if isinstance(exc, CallCancelled):
                raise self._failure() from None
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
        if not self._unread:
            self._unread = await self.read()
            if not self._unread:
                raise StopAsyncIteration
        return self._unread.pop(0)

    async def read(
        self, sink: Callable[[list[Chunk]], bool] | None = None
    ) -> list[Chunk | Complete]:
        """Return all messages that are there, once there is one; none after the proper end.

        Args:
            sink: May be offered the tokens that come meanwhile, but not the end; those that it
                takes are not returned.
        """
        rpc = self._rpc
        if rpc is None:
            raise RuntimeError("The call was not entered.")
        while not self._is_over:
            said = await self._read(rpc, sink)
            if said:
                return said
        if not self._is_complete:
            self._is_complete = True
            raise BrokenResponse("The worker ended the answer without completing it.")
        return []

    async def _read(
        self, rpc: Rpc, sink: Callable[[list[Chunk]], bool] | None
    ) -> list[Chunk | Complete]:
        if self.n_messages:
            self._clock.start(self._gap_timeout_s)
        try:
            messages = await rpc.read(None if sink is None else partial(self._pass_on, sink))
        except (CallCancelled, UpstreamError) as exc:
            self._is_over = True
            if self._is_complete:
                # Everything was said; how the call itself ended does not matter.
                return []
            if isinstance(exc, CallCancelled):
                raise self._failure() from None
            raise
        self._clock.rest()
        if not messages:
            self._is_over = True
            return []
        self.n_messages += len(messages)
        said = []
        for message in messages:
            frame = from_wire(message)
            if frame is not None:
                said.append(frame)
                self._is_complete = self._is_complete or type(frame) is Complete
        return said

    def _pass_on(self, sink: Callable[[list[Chunk]], bool], messages: list[bytes]) -> bool:
        """Offer what came to a sink, if it is tokens only."""
        chunks = chunks_of(messages)
        if chunks is None or not sink(chunks):
            return False
        self.n_messages += len(messages)
        self._clock.start(self._gap_timeout_s)
        return True

    def _end_call(self) -> None:
        if self._rpc is not None:
            self._rpc.cancel()

    def _failure(self) -> UpstreamError:
        """Say why this side ended the call."""
        if self._ended_by is not None:
            return self._ended_by
        if not self._clock.has_struck:
            return cancelled_here()
        if self.n_messages:
            text = f"The worker sent nothing for {self._gap_timeout_s:g} s."
            return SilenceTimeout(text, phase="body")
        text = f"The worker sent no first token within {self._first_timeout_s:g} s."
        return SilenceTimeout(text, phase="head")
