"""What a leg's body gains so that an SGLang pair can meet: host, port, room and request id.

Field names, types and ranges are those of SMG and were seen to work on SGLang 0.5.23: the host
without a port, the port or null, a room of 63 bits that fits a signed integer of 64.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

import orjson

from app.protocol.routes import Route

_N_ROOM_BITS = 63
_N_RID_BITS = 128

# Seeded from the system once a process, forked ones too. Rooms and ids must differ, nothing more:
# asking the system each time costs 1 us, and there are two a request.
_random = random.Random()
_random_bits = _random.getrandbits
os.register_at_fork(after_in_child=_random.seed)


def mint_room(
    rank: int = 0, dp_size: int = 1, randbits: Callable[[int], int] = _random_bits
) -> int:
    """Draws a bootstrap room in 0 .. 2**63-1.

    Prefill workers with data parallelism serve a room on rank ``room % dp_size`` when they
    follow the room, so the room is minted congruent to the chosen rank.

    Args:
        rank: The prefill rank, 0 .. dp_size-1.
        dp_size: The prefill worker's number of ranks.
        randbits: Source of random bits; tests hand in their own.
    """
    room = randbits(_N_ROOM_BITS)
    if dp_size <= 1:
        return room
    room += rank - room % dp_size
    return room if room < 1 << _N_ROOM_BITS else room - dp_size


def mint_rid(route: Route, randbits: Callable[[int], int] = _random_bits) -> str:
    """Draws a request id, shaped like the route's answers' ids and of fixed width.

    SGLang's scheduler aborts by prefix of the id, so no id may begin another; the worker returns
    it as the answer's ``id``.
    """
    bits = randbits(_N_RID_BITS)
    if route is Route.CHAT:
        return f"chatcmpl-{bits:032x}"
    return f"cmpl-{bits:032x}" if route is Route.COMPLETIONS else f"{bits:032x}"


def members(
    host: str,
    port: int | None,
    rooms: int | Sequence[int],
    rids: str | Sequence[str],
    batch: int | None,
) -> bytes:
    """Writes the members that both legs of an attempt share.

    Args:
        host: The prefill worker's host, IPv6 in brackets, without port.
        port: Its bootstrap port; ``None`` is sent as null.
        rooms: One room, or one for each prompt of a batch.
        rids: One request id, or one for each prompt of a batch.
        batch: Number of prompts of a batch; ``None`` for a single request.

    Raises:
        ValueError: Rooms or ids do not match the batch.
    """
    if batch is None:
        if not isinstance(rooms, int) or not isinstance(rids, str):
            raise ValueError("A single request takes one room and one request id.")
        return b'"bootstrap_host":%b,"bootstrap_port":%b,"bootstrap_room":%d,"rid":%b' % (
            orjson.dumps(host),
            b"null" if port is None else b"%d" % port,
            rooms,
            orjson.dumps(rids),
        )
    if isinstance(rooms, int) or isinstance(rids, str):
        raise ValueError("A batch takes a list of rooms and a list of request ids.")
    if len(rooms) != batch or len(rids) != batch:
        raise ValueError(f"A batch of {batch} takes as many rooms and request ids.")
    return orjson.dumps(
        {
            "bootstrap_host": [host] * batch,
            "bootstrap_port": [port] * batch,
            "bootstrap_room": list(rooms),
            "rid": list(rids),
        }
    )[1:-1]
