"""What engines tell of their KV caches, in one form whatever the wire was.

vLLM 0.32 and SGLang 0.5.23 publish the same three things: blocks were stored, blocks were
removed, everything was cleared. A block is named by the engine's own hash, which stands for the
block and all before it; only the engine can compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

TOKEN_BYTES = 4
_PIECE_BLOCKS = 512


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that follow one another are in the cache.

    Attributes:
        hashes: The engine's names of them.
        parent: Its name of the block before the first; None: the first begins a prompt.
        ids: The tokens of all of them, 4 bytes each, little-endian.
        block_size: Tokens of a block.
        is_plain: Nothing but the tokens decides what is in them: no adapter, salt or image.
    """

    hashes: Sequence[int]
    parent: int | None
    ids: bytes = field(repr=False)
    block_size: int
    is_plain: bool = True

    @property
    def n_blocks(self) -> int:
        """How many."""
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks are in the cache no more."""

    hashes: Sequence[int]

    @property
    def n_blocks(self) -> int:
        """How many."""
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing is in the cache any more."""

    n_blocks = 0


KvEvent: TypeAlias = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class KvBatch:
    """What one rank tells at once.

    Attributes:
        rank: Its data-parallel rank.
        number: Its own count of batches, from 0 at the engine's start.
        events: In their order.
        is_readable: Not so, and what it told is missed.
    """

    rank: int
    number: int
    events: Sequence[KvEvent] = ()
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class KvSource:
    """Where a worker publishes its events over ZeroMQ.

    Attributes:
        host: Empty: the host of the worker's URL.
        port: Of rank 0; the others have the next ones.
        replay_port: The same of where missed batches can be asked for, if anywhere.
        topic: What the messages begin with.
    """

    port: int
    host: str = ""
    replay_port: int | None = None
    topic: str = ""


class KvEventsUnavailable(Exception):
    """The worker publishes no events, and will not before it is started anew."""


class KvEventsLost(Exception):
    """The stream of events has ended; it may be there again later."""


def pieces(event: KvEvent) -> Sequence[KvEvent]:
    """Returns the event as several that are small enough to take between two requests."""
    if not isinstance(event, Stored) or event.n_blocks <= _PIECE_BLOCKS:
        return (event,)
    step = event.block_size * TOKEN_BYTES
    found = []
    for start in range(0, event.n_blocks, _PIECE_BLOCKS):
        end = start + _PIECE_BLOCKS
        parent = event.hashes[start - 1] if start else event.parent
        found.append(
            Stored(
                event.hashes[start:end],
                parent,
                event.ids[start * step : end * step],
                event.block_size,
                event.is_plain,
            )
        )
    return found
