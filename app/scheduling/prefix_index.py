"""Which rank holds which prompt prefixes: one flat table of block hashes.

A block is known by the chained hash of all blocks up to its end, so equal hashes mean equal
prefixes. The table is four arrays of fixed size: it never grows, never pauses to be rebuilt, and
gives the collector nothing to walk through.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

N_WAYS = 8
"""Places where a block may be; the one unused longest makes room."""
_WORD_BITS = 64
_ADDS_A_TICK = 16
"""So the clock's 32 bits last for two years of a thousand requests a second."""
_MARK_BLOCKS = 256
"""Blocks between two marks of a rank's clock: the grain of its predicted evictions."""


class PrefixIndex:
    """Remembers which rank was given which blocks, and forgets what the rank has evicted.

    An engine evicts the least recently used blocks once its cache is full. That is predicted,
    not followed: a block is counted as held while no more than the rank's capacity was put
    there after the block was last used.

    Args:
        max_bytes: The budget of the table, all of it reserved (not touched) at once.
        n_ranks: Ranks that can be told apart; places of removed ranks are used again.

    Raises:
        ValueError: The budget does not hold a single row of blocks.
    """

    def __init__(self, max_bytes: int, n_ranks: int = 64) -> None:
        self._n_words = max(1, -(-n_ranks // _WORD_BITS))
        self.bytes_per_block = 8 + 4 + 8 * self._n_words
        n_sets = max_bytes // (self.bytes_per_block * N_WAYS)
        if n_sets < 1:
            raise ValueError(f"{max_bytes} bytes hold no prefix index.")
        self._n_sets = n_sets
        n_slots = self._n_sets * N_WAYS
        self._hashes = np.zeros(n_slots, np.uint64)
        self._holders = np.zeros((n_slots, self._n_words), np.uint64)
        self._used = np.zeros(n_slots, np.uint32)
        self._tick = 1
        self._n_adds = 0
        self._ways = np.arange(N_WAYS, dtype=np.int64)
        self._horizons = np.zeros(self._n_words * _WORD_BITS, np.uint32)
        self._evictions: dict[int, _Evictions] = {}

    @property
    def n_slots(self) -> int:
        """Blocks that the table can hold."""
        return self._n_sets * N_WAYS

    @property
    def n_places(self) -> int:
        """Ranks that can be told apart."""
        return len(self._horizons)

    def add_rank(self, rank: int, capacity_blocks: int) -> None:
        """Tells a rank's place and the size of its cache, in blocks."""
        # The place may have been another rank's.
        self._tick += 1
        self._horizons[rank] = self._tick
        self._evictions[rank] = _Evictions(capacity_blocks, self._tick)

    def known(self, hashes: Hashes) -> NDArray[np.int64]:
        """Counts the leading blocks that each rank holds.

        Args:
            hashes: Chained hashes of a prompt's blocks, the first one first.

        Returns:
            One number for each place of a rank.
        """
        slots, is_there = self._find(hashes)
        n_leading = len(hashes) if is_there.all() else int(is_there.argmin())
        if not n_leading:
            return np.zeros(self.n_places, np.int64)
        slots = slots[:n_leading]
        held = np.bitwise_and.accumulate(self._holders[slots], axis=0)
        bits = np.unpackbits(held.view(np.uint8), axis=1, bitorder="little")
        fresh = self._used[slots][:, None] >= self._horizons[None, :]
        # A block that was evicted ends the prefix, whatever lies behind it.
        held_here = np.logical_and.accumulate(bits.astype(bool) & fresh, axis=0)
        return np.asarray(held_here.sum(axis=0), np.int64)

    def add(self, rank: int, hashes: Hashes) -> None:
        """Notes that a rank was given a prompt of these blocks."""
        if not len(hashes):
            return
        self._n_adds += 1
        if not self._n_adds % _ADDS_A_TICK:
            self._tick += 1
        slots, is_there = self._find(hashes)
        if not is_there.all():
            missing = np.flatnonzero(~is_there)
            slots[missing] = self._place(hashes[missing])
            # Two blocks of one prompt may have taken one place; the later one has it.
            is_ours = self._hashes[slots] == hashes
            slots = slots[is_ours]
        word, bit = divmod(rank, _WORD_BITS)
        mask = np.uint64(1 << bit)
        is_new = (self._holders[slots, word] & mask) == 0
        is_new |= self._used[slots] < self._horizons[rank]
        self._holders[slots, word] |= mask
        self._used[slots] = self._tick
        self._horizons[rank] = self._evictions[rank].note(int(is_new.sum()), self._tick)

    def forget(self, rank: int) -> None:
        """Drops all that a rank held, as after a restart or a flush.

        Nothing is walked through: what was used until now counts as evicted.
        """
        self._tick += 1
        self._horizons[rank] = self._tick
        capacity_blocks = self._evictions[rank].capacity_blocks
        self._evictions[rank] = _Evictions(capacity_blocks, self._tick)

    def _find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The slot of each hash, and whether it is there."""
        first = (hashes % np.uint64(self._n_sets)).astype(np.int64) * N_WAYS
        ways = first[:, None] + self._ways
        same = self._hashes[ways] == hashes[:, None]
        return first + same.argmax(axis=1), same.any(axis=1)

    def _place(self, hashes: Hashes) -> NDArray[np.int64]:
        """Gives each new hash the place used least recently among its own."""
        first = (hashes % np.uint64(self._n_sets)).astype(np.int64) * N_WAYS
        # Several new blocks may share a set: each takes the next oldest place of it.
        order = np.argsort(first, kind="stable")
        ordered = first[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        turn = np.empty(len(first), np.int64)
        turn[order] = np.arange(len(first)) - np.repeat(starts, np.diff(np.r_[starts, len(first)]))
        oldest = np.argsort(self._used[first[:, None] + self._ways], axis=1)
        slots = first + oldest[np.arange(len(first)), turn % N_WAYS]
        self._hashes[slots] = hashes
        self._holders[slots] = 0
        return slots


class _Evictions:
    """When a rank's blocks fall out of its cache: marks of how much was put there by when."""

    __slots__ = ("_horizon", "_marks", "_n_since", "_n_total", "capacity_blocks")

    def __init__(self, capacity_blocks: int, horizon: int = 0) -> None:
        self.capacity_blocks = capacity_blocks
        self._marks: deque[tuple[int, int]] = deque()
        self._n_since = 0
        self._n_total = 0
        self._horizon = horizon

    def note(self, n_new: int, tick: int) -> int:
        """Counts new blocks; returns the tick before which everything is evicted."""
        self._n_since += n_new
        self._n_total += n_new
        if self._n_since >= min(_MARK_BLOCKS, self.capacity_blocks):
            self._marks.append((self._n_total, tick))
            self._n_since = 0
        while self._marks and self._marks[0][0] <= self._n_total - self.capacity_blocks:
            self._horizon = max(self._horizon, self._marks.popleft()[1])
        return self._horizon
