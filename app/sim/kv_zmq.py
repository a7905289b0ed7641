"""Publishes what a simulated rank tells over ZeroMQ, as SGLang 0.5.23 and vLLM 0.32 do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec.msgpack
import zmq
import zmq.asyncio

from app.sim.kv_log import Batch, BlocksRemoved, BlocksStored, CacheEvent, KvLog

_NUMBER_BYTES = 8
_END = b"\xff" * _NUMBER_BYTES


class KvPublisher:
    """A PUB socket for one rank, and a ROUTER that replays.

    Args:
        log: What the rank tells.
        rank: Its number.
        host: Where to listen.

    Attributes:
        port: Of the PUB socket, once started; it stays when started again.
        replay_port: Of the ROUTER.
    """

    def __init__(self, log: KvLog, rank: int, host: str) -> None:
        self._log = log
        self._rank = rank
        self._host = host
        self.port = self.replay_port = 0
        self.n_replays = 0
        self._pub: zmq.asyncio.Socket | None = None
        self._router: zmq.asyncio.Socket | None = None
        self._replaying: asyncio.Task[None] | None = None
        log.listen(self._publish)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Listens, on the same ports as before."""
        ether = zmq.asyncio.Context.instance()
        self._pub, self._router = ether.socket(zmq.PUB), ether.socket(zmq.ROUTER)
        self.port = _bind(self._pub, self._host, self.port)
        self.replay_port = _bind(self._router, self._host, self.replay_port)
        self._replaying = group.create_task(self._replay(self._router))

    def stop(self) -> None:
        """Closes both sockets."""
        if self._replaying is not None:
            self._replaying.cancel()
        for socket in (self._pub, self._router):
            if socket is not None:
                socket.close(linger=0)
        self._pub = self._router = self._replaying = None

    def _publish(self, batch: Batch) -> None:
        if self._pub is not None:
            # A PUB socket never waits: what nobody takes is dropped.
            zmq.Socket.send_multipart(self._pub, self._frames(batch))

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        while True:
            peer, _, first = await router.recv_multipart()
            self.n_replays += 1
            for batch in tuple(self._log.kept):
                if batch[0] >= int.from_bytes(first, "big"):
                    await router.send_multipart([peer, b"", *self._frames(batch)])
            await router.send_multipart([peer, b"", b"", _END, b""])

    def _frames(self, batch: Batch) -> list[bytes]:
        number, events = batch
        payload = [datetime.now(UTC).timestamp(), [_fields(e) for e in events], self._rank]
        return [b"", number.to_bytes(_NUMBER_BYTES, "big"), msgspec.msgpack.encode(payload)]


def _bind(socket: zmq.asyncio.Socket, host: str, port: int) -> int:
    if not port:
        return socket.bind_to_random_port(f"tcp://{host}")
    socket.bind(f"tcp://{host}:{port}")
    return port


def _fields(event: CacheEvent) -> dict[str, Any]:
    if isinstance(event, BlocksStored):
        return {
            "type": "BlockStored",
            "block_hashes": event.names,
            "parent_block_hash": event.parent,
            "token_ids": event.ids,
            "block_size": event.size,
            "lora_id": None,
            "medium": "GPU",
        }
    if isinstance(event, BlocksRemoved):
        return {"type": "BlockRemoved", "block_hashes": event.names, "medium": "GPU"}
    return {"type": "AllBlocksCleared"}
