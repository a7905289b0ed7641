"""A connection between replicas: frames that only who has the secret can write.

Both sides send a fresh number first; both numbers and the secret make one key for each direction,
and each frame carries a code by that key over its place and what is in it. So nothing is read
that was not written by a gateway of the fleet, in this connection and in this order. It hides
nothing: that is for the network below.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import Any, cast

from app.cluster.wire import MAX_UNSENT_BYTES, Message, Wire

_HEAD = Struct("<I16s")
_PLACE = Struct("<Q")
_NONCE_BYTES, _CODE_BYTES = 32, 16
PROOF_S = 3.0
"""Longest time until the other side has shown that it has the secret."""
_MAX_FIRST_BYTES = 64 * 1024


class Sealed(asyncio.Protocol):
    """The connection under a wire.

    Args:
        wire: What is said over it.
        secret: Both sides'.
        is_asked: This side was connected to.
    """

    def __init__(self, wire: Wire, secret: bytes, *, is_asked: bool) -> None:
        self.wire = wire
        self._secret = secret
        self._is_asked = is_asked
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._unread = bytearray()
        self._unsent: list[bytes] = []
        self._keys = b"", b""
        self._has_keys = False
        self._n_sent = self._n_read = 0
        self._transport: asyncio.Transport
        self._alarm: asyncio.TimerHandle

    # What the connection tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends this side's number."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._nonce)
        self._alarm = asyncio.get_running_loop().call_later(PROOF_S, self._transport.abort)
        self.wire.connection_made(cast("asyncio.BaseTransport", self))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the wire."""
        self._alarm.cancel()
        self.wire.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads whole frames; a wrong one ends the connection."""
        self._unread += data
        if not self._has_keys and not self._agree():
            return
        while len(self._unread) >= _HEAD.size:
            length, code = _HEAD.unpack_from(self._unread)
            if length > (MAX_UNSENT_BYTES if self._n_read else _MAX_FIRST_BYTES):
                self.abort()
                return
            end = _HEAD.size + length
            if len(self._unread) < end:
                return
            body = bytes(self._unread[_HEAD.size : end])
            del self._unread[:end]
            if not hmac.compare_digest(code, self._code(0, self._n_read, body)):
                self.abort()
                return
            self._n_read += 1
            self._alarm.cancel()
            self.wire.data_received(body)

    def _agree(self) -> bool:
        if len(self._unread) < _NONCE_BYTES:
            return False
        theirs = bytes(self._unread[:_NONCE_BYTES])
        del self._unread[:_NONCE_BYTES]
        asked, asking = (self._nonce, theirs) if self._is_asked else (theirs, self._nonce)
        ways = [
            blake2b(way + asked + asking, key=self._secret, digest_size=32).digest()
            for way in (b"to asking", b"to asked.")
        ]
        # What is read, what is written.
        self._keys = (ways[1], ways[0]) if self._is_asked else (ways[0], ways[1])
        self._has_keys = True
        unsent, self._unsent = self._unsent, []
        for body in unsent:
            self.write(body)
        return True

    def _code(self, which: int, place: int, body: bytes) -> bytes:
        made = blake2b(_PLACE.pack(place), key=self._keys[which], digest_size=_CODE_BYTES)
        made.update(body)
        return made.digest()

    # As the wire's transport.

    def write(self, body: bytes) -> None:
        """Sends what the wire says, once there is a key."""
        if not self._has_keys:
            self._unsent.append(body)
            return
        code = self._code(1, self._n_sent, body)
        self._n_sent += 1
        self._transport.write(_HEAD.pack(len(body), code) + body)

    def get_write_buffer_size(self) -> int:
        """How much the system has not taken yet, in bytes."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Ends the connection now."""
        self._transport.abort()


def key_of(secret: str) -> bytes:
    """Returns what of a secret of any length is used."""
    return blake2b(secret.encode(), digest_size=64).digest()


async def dial(
    host: str,
    port: int,
    secret: bytes,
    on_message: Callable[[Message], None],
    on_end: Callable[[], None],
) -> Wire:
    """Connects to another replica's brain.

    Raises:
        OSError: It cannot be reached.
    """

    def make() -> Sealed:
        return Sealed(Wire(on_message, on_end), secret, is_asked=False)

    loop: Any = asyncio.get_running_loop()
    _, sealed = await loop.create_connection(make, host, port)
    return cast("Sealed", sealed).wire
