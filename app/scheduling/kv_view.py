"""Which rank holds which blocks of tokens, as the engines themselves tell it.

Where a rank publishes its KV events nothing about its cache need be guessed. What is held is
never believed without proof: blocks that hang on one that is not known, and blocks that more than
their tokens decides about, are left out, so that a wrong or missing event lowers what is expected
of a cache and never raises it.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from app.scheduling.kv_rank import N_CHAIN_SHARDS, KvRank
from app.scheduling.token_prompt import chain, root
from app.workers.kv_events import TOKEN_BYTES, Cleared, Removed, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from app.scheduling.token_prompt import TokenPrompt
    from app.workers.kv_events import KvEvent

BLOCK_BYTES = 256
"""Of a block that one rank holds: 155 to 250 as measured, by how full Python's dicts are."""
_SWEEP = 512
_N_SHARDS = 512
"""A dict that grows is copied at once: many small ones never take long."""


class Admission(StrEnum):
    """What a batch's number makes of it."""

    NEXT = "next"
    """It follows the last one."""
    FIRST = "first"
    """The first one heard of this rank."""
    RESTART = "restart"
    """The engine counts anew: it was started anew."""
    GAP = "gap"
    """Some were missed: what was known is worth nothing."""


class KvView:
    """Follows the caches of all ranks that tell of them.

    Args:
        max_bytes: Budget for all ranks together. A rank that would go over it is followed no
            more until its cache is cleared.

    Attributes:
        n_orphans: Blocks that were left out because what they hang on is not known.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_blocks = max_bytes // BLOCK_BYTES
        self._ranks: dict[int, KvRank] = {}
        self._holders: list[dict[int, int]] = [{} for _ in range(_N_SHARDS)]
        self._free_bits: list[int] = []
        self._n_bits = 0
        self._graves: deque[tuple[int, Iterator[int]]] = deque()
        self._by_bit: dict[int, KvRank] = {}
        self._live: tuple[list[int], dict[int, int]] | None = None
        self.n_blocks = 0
        self.n_orphans = 0

    def open(self, place: int) -> None:
        """A rank has this place; nothing was heard of it yet."""
        self.close(place)
        rank = KvRank(place, self._new_bit())
        self._ranks[place] = self._by_bit[rank.bit] = rank

    def close(self, place: int) -> None:
        """The rank is no more."""
        rank = self._ranks.pop(place, None)
        if rank is not None:
            self._bury(rank)

    def forget(self, place: int) -> None:
        """Drops what is known of a rank's cache; what it tells from now on is believed."""
        rank = self._ranks.get(place)
        if rank is not None:
            self._empty(rank)
            rank.is_whole = False

    def hush(self, place: int) -> None:
        """The rank is not heard at the moment: what is known counts again if nothing is missed."""
        rank = self._ranks.get(place)
        if rank is not None:
            rank.is_heard = False
            self._live = None

    def state(self, place: int) -> str:
        """``exact``, ``partial`` (what it had before is not known) or ``predicted``."""
        rank = self._ranks.get(place)
        return "predicted" if rank is None else rank.state

    def admit(self, place: int, number: int) -> Admission:
        """Takes note of a batch before its events are taken.

        Args:
            place: The rank's.
            number: Its count of batches.
        """
        rank = self._ranks[place]
        last, rank.last = rank.last, number
        if not rank.is_heard:
            rank.is_heard = True
            self._live = None
        if last is not None and number == last + 1:
            return Admission.NEXT
        if number == 0:
            # Whoever has the very first batch has all there is.
            self._empty(rank)
            rank.is_whole, rank.is_over = True, False
            return Admission.FIRST if last is None else Admission.RESTART
        self._empty(rank)
        rank.is_whole = False
        return Admission.FIRST if last is None else Admission.GAP

    def take(self, place: int, event: KvEvent) -> None:
        """Takes one event of a rank; see :func:`app.workers.kv_events.pieces` for large ones."""
        rank = self._ranks[place]
        if isinstance(event, Stored):
            self._store(rank, event)
        elif isinstance(event, Removed):
            self._remove(rank, event)
        elif isinstance(event, Cleared):
            self._empty(rank)
            rank.is_whole, rank.is_over = True, False
        self._sweep()

    def expect(self, place: int, prompt: TokenPrompt) -> None:
        """The rank was sent a prompt and will hold it: the next ones like it may follow."""
        rank = self._ranks.get(place)
        if rank is None or not rank.counts or not rank.block_size:
            return
        mask = 1 << rank.bit
        for key in prompt.chains(rank.block_size):
            part = self._holders[key % _N_SHARDS]
            known = part.get(key, 0)
            if not known & mask or key in rank.unsure:
                rank.unsure[key] = rank.unsure.get(key, 0) + 1
                part[key] = known | mask

    def settle(self, place: int, prompt: TokenPrompt) -> None:
        """A prompt that was expected is computed, or was lost: from now on events alone count."""
        rank = self._ranks.get(place)
        if rank is None or not rank.unsure:
            return
        for key in prompt.chains(rank.block_size):
            n_expecting = rank.unsure.get(key, 0)
            if n_expecting > 1:
                rank.unsure[key] = n_expecting - 1
            elif n_expecting:
                del rank.unsure[key]
                self._release(key, rank.bit)

    def correct(self, known: NDArray[np.int64], prompt: TokenPrompt) -> None:
        """Puts what is known in the place of what was predicted.

        Args:
            known: By place, the tokens that a rank is predicted to have cached. Of a rank that
                is known in part the prediction stays where it is the larger number.
            prompt: The prompt.
        """
        exact, sizes = self._live or self._look()
        known[exact] = 0
        for block_size, mask in sizes.items():
            for bit, n_blocks in self._leading(prompt.chains(block_size), mask):
                place = self._by_bit[bit].place
                known[place] = max(known[place], n_blocks * block_size)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """The sizes of block by which prompts are looked up."""
        return tuple((self._live or self._look())[1])

    def _look(self) -> tuple[list[int], dict[int, int]]:
        """The places that are known exactly, and the bits of all that count, by block size."""
        exact = [place for place, rank in self._ranks.items() if rank.state == "exact"]
        sizes: dict[int, int] = {}
        for rank in self._ranks.values():
            if rank.counts and rank.block_size:
                sizes[rank.block_size] = sizes.get(rank.block_size, 0) | 1 << rank.bit
        self._live = exact, sizes
        return self._live

    def _leading(self, keys: Sequence[int], mask: int) -> Iterator[tuple[int, int]]:
        """By bit, the leading blocks that it holds, where it holds any."""
        parts, n_blocks = self._holders, 0
        for key in keys:
            held = parts[key % _N_SHARDS].get(key, 0) & mask
            if held != mask:
                if n_blocks:
                    yield from ((bit, n_blocks) for bit in _bits(mask & ~held))
                mask = held
                if not mask:
                    return
            n_blocks += 1
        if n_blocks:
            yield from ((bit, n_blocks) for bit in _bits(mask))

    def _store(self, rank: KvRank, event: Stored) -> None:
        if event.block_size > rank.block_size:
            # An engine has one size, but the last block of a prompt may be a smaller one.
            rank.is_whole = rank.is_whole and not rank.n_blocks
            self._empty(rank)
            rank.block_size = event.block_size
        before = root(event.block_size) if event.parent is None else rank.chain_of(event.parent)
        fits = event.is_plain and event.block_size == rank.block_size and not rank.is_over
        if before is None or not fits:
            self.n_orphans += event.n_blocks
            return
        if self.n_blocks + event.n_blocks > self._max_blocks:
            self._empty(rank)
            rank.is_over = True
            return
        mask = 1 << rank.bit
        keys = chain(before, event.ids, event.block_size * TOKEN_BYTES)
        for name, key in zip(event.hashes, keys, strict=True):
            names, part = rank.chains[name % N_CHAIN_SHARDS], self._holders[key % _N_SHARDS]
            old = names.get(name)
            if old is None:
                rank.n_blocks += 1
                self.n_blocks += 1
            elif old != key:
                self._release(old, rank.bit)
            names[name] = key
            part[key] = part.get(key, 0) | mask
            rank.unsure.pop(key, None)

    def _remove(self, rank: KvRank, event: Removed) -> None:
        for name in event.hashes:
            # vLLM may have two copies of a block: it counts as gone with the first.
            key = rank.chains[name % N_CHAIN_SHARDS].pop(name, None)
            if key is not None:
                rank.n_blocks -= 1
                self.n_blocks -= 1
                self._release(key, rank.bit)

    def _release(self, key: int, bit: int) -> None:
        part = self._holders[key % _N_SHARDS]
        left = part.get(key, 0) & ~(1 << bit)
        if left:
            part[key] = left
        else:
            part.pop(key, None)

    def _empty(self, rank: KvRank) -> None:
        """Nothing is walked through now: the rank gets another bit."""
        self._bury(rank)
        rank.start(self._new_bit())
        self._by_bit[rank.bit] = rank

    def _bury(self, rank: KvRank) -> None:
        self.n_blocks -= rank.n_blocks
        del self._by_bit[rank.bit]
        self._live = None
        self._graves.append((rank.bit, rank.leave()))

    def _sweep(self) -> None:
        """Clears some of the bits that nobody has any more."""
        n_left = _SWEEP
        while self._graves and n_left:
            bit, keys = self._graves[0]
            for key in islice(keys, n_left):
                self._release(key, bit)
                n_left -= 1
            if n_left:
                self._graves.popleft()
                self._free_bits.append(bit)

    def _new_bit(self) -> int:
        if self._free_bits:
            return self._free_bits.pop()
        self._n_bits += 1
        return self._n_bits - 1


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
