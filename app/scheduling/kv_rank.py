"""What one rank has told of its cache."""

from __future__ import annotations

from collections.abc import Iterator

N_CHAIN_SHARDS = 64
"""A dict that grows is copied at once: many small ones never take long."""


class KvRank:
    """The blocks of one rank, and how far they can be believed.

    Args:
        place: The rank's place in the scheduler's tables.
        bit: Its place in the numbers of holders.

    Attributes:
        chains: Our hash of each block, by the engine's; in parts, by its last bits.
        n_blocks: How many these are.
        unsure: Blocks that the rank was sent and has not told of: how many requests bring each.
        last: The number of the last batch.
        block_size: Tokens of a block; 0 until one was stored.
        is_whole: Everything since the cache was empty was heard.
        is_heard: It is listened to at the moment.
        is_over: Its blocks did not fit the budget.
    """

    __slots__ = (
        "bit",
        "block_size",
        "chains",
        "is_heard",
        "is_over",
        "is_whole",
        "last",
        "n_blocks",
        "place",
        "unsure",
    )

    def __init__(self, place: int, bit: int) -> None:
        self.place = place
        self.block_size = 0
        self.last: int | None = None
        self.is_whole = self.is_heard = self.is_over = False
        self.start(bit)

    def start(self, bit: int) -> None:
        """Begin anew without a block."""
        self.bit = bit
        self.chains: list[dict[int, int]] = [{} for _ in range(N_CHAIN_SHARDS)]
        self.n_blocks = 0
        self.unsure: dict[int, int] = {}

    def chain_of(self, name: int) -> int | None:
        """Our hash of a block."""
        return self.chains[name % N_CHAIN_SHARDS].get(name)

    def leave(self) -> Iterator[int]:
        """Gives the hashes of all blocks away, freeing them on the way; ``start`` must follow."""
        return _used_up(self.chains, self.unsure)

    @property
    def counts(self) -> bool:
        """Whether its blocks are certainly held."""
        return self.is_heard and not self.is_over

    @property
    def state(self) -> str:
        """See :meth:`app.scheduling.kv_view.KvView.state`."""
        if not self.counts:
            return "predicted"
        return "exact" if self.is_whole else "partial"


def _used_up(parts: list[dict[int, int]], others: dict[int, int]) -> Iterator[int]:
    while parts:
        yield from parts.pop().values()
    yield from others
