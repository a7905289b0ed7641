"""The KV events of one rank over ZeroMQ: a PUB socket, and a ROUTER that replays what was missed.

A message is ``topic, number, batch``; the number has eight bytes, the highest first, and counts
from 0. Who sends the replay socket a number gets every batch from there on that it still has
(10,000 by default), and then the number -1. Seen with SGLang 0.5.23 and vLLM 0.32.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from app.upstream.zmq_batches import BatchReader
from app.workers.kv_events import KvBatch, KvEventsLost, KvEventsUnavailable

if TYPE_CHECKING:
    import zmq.asyncio

_NUMBER_BYTES = 8
_END = b"\xff" * _NUMBER_BYTES
_REPLAY_S = 5.0
"""Longest silence of a replay."""
_QUEUE_BATCHES = 10_000
"""So many wait here unread; what is over is lost, and asked for again."""
_HEARTBEAT_MS, _DEAD_MS = 5_000, 15_000


class ZmqKvEvents:
    """Opens the stream of one rank, as often as it takes.

    Args:
        rank: The rank.
        endpoint: ``tcp://host:port`` where it publishes.
        replay_endpoint: Where it replays, if it does.
        topic: What its messages begin with.
    """

    def __init__(
        self, rank: int, endpoint: str, replay_endpoint: str | None = None, topic: str = ""
    ) -> None:
        self._rank = rank
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._topic = topic.encode()
        self._reader = BatchReader()
        self._last = -1

    async def read(self) -> AsyncGenerator[KvBatch]:
        """Yields all that the rank still has of its past, and then what it tells.

        Raises:
            KvEventsUnavailable: The libraries are not installed.
            KvEventsLost: The publisher went away.
        """
        zmq, unpack = _libraries()
        self._reader, self._last = BatchReader(), -1
        ether = zmq.asyncio.Context.instance()
        live = self._connect(ether, zmq, zmq.SUB, self._endpoint)
        live.subscribe(self._topic)
        fate = live.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            async for batch in self._replay(ether, zmq, unpack):
                yield batch
            poller = zmq.asyncio.Poller()
            poller.register(live, zmq.POLLIN)
            poller.register(fate, zmq.POLLIN)
            while True:
                if any(socket is fate for socket, _ in await poller.poll()):
                    raise KvEventsLost("the publisher of KV events went away")
                frames = await live.recv_multipart()
                if len(frames) != 3 or len(frames[1]) != _NUMBER_BYTES:
                    continue
                number = int.from_bytes(frames[1], "big")
                if number <= self._last and number:
                    # It came with the replay.
                    continue
                if number > self._last + 1:
                    async for batch in self._replay(ether, zmq, unpack):
                        yield batch
                    if number <= self._last:
                        continue
                yield self._batch(number, frames[2], unpack)
        finally:
            live.disable_monitor()
            fate.close(linger=0)
            live.close(linger=0)

    async def _replay(
        self, ether: zmq.asyncio.Context, zmq: Any, unpack: Any
    ) -> AsyncGenerator[KvBatch]:
        """What was told since the last batch; a publisher that does not replay is passed over."""
        if self._replay_endpoint is None:
            return
        asking = self._connect(ether, zmq, zmq.DEALER, self._replay_endpoint)
        try:
            first = (self._last + 1).to_bytes(_NUMBER_BYTES, "big")
            await asking.send_multipart([b"", first])
            while True:
                async with asyncio.timeout(_REPLAY_S):
                    frames = await asking.recv_multipart()
                # vLLM before 0.32 sends no topic here.
                if len(frames) < 3 or frames[-2] == _END:
                    return
                number = int.from_bytes(frames[-2], "big")
                if number > self._last:
                    yield self._batch(number, frames[-1], unpack)
        except TimeoutError:
            # What is missing shows as a gap.
            return
        finally:
            asking.close(linger=0)

    def _connect(self, ether: zmq.asyncio.Context, zmq: Any, kind: int, endpoint: str) -> Any:
        socket = ether.socket(kind)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.RCVHWM, _QUEUE_BATCHES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_MS)
        socket.connect(endpoint)
        return socket

    def _batch(self, number: int, payload: bytes, unpack: Any) -> KvBatch:
        self._last = number
        try:
            return KvBatch(self._rank, number, self._reader.read(unpack(payload)))
        except ValueError:
            return KvBatch(self._rank, number, is_readable=False)


def _libraries() -> tuple[Any, Any]:
    try:
        import msgspec.msgpack  # noqa: PLC0415 - of an extra
        import zmq.asyncio  # noqa: PLC0415 - of an extra
    except ImportError:
        raise KvEventsUnavailable(
            'KV events over ZeroMQ need: pip install "tandem-gateway[kv-events]".'
        ) from None
    return zmq, msgspec.msgpack.decode
