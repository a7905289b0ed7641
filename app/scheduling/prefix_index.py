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

_WAY_BITS = 3
N_WAYS = 1 << _WAY_BITS
"""Places where a block may be; the one unused longest makes room."""
_WORD_BITS, _WORD_BYTES = 32, 4
_LINE_BYTES = 64
"""What memory hands over at a time. A set of hashes is one line, not halves of two."""
_ADDS_A_TICK = 16
"""So the clock's 32 bits last for two years of a thousand requests a second."""
_NO_SLOTS = np.empty(0, np.int64)
_MARK_BLOCKS = 256
"""Blocks between two marks of a rank's clock: the grain of its predicted evictions."""


class PrefixIndex:
    """Remembers which rank was given which blocks, and forgets what the rank has evicted.

    An engine evicts the least recently used blocks once its cache is full. That is predicted,
    not followed: a block is counted as held while no more than the rank's capacity was put
    there after the block was last used.

    Args:
        max_bytes: The budget of the table, all of it taken at once.
        n_ranks: Ranks that can be told apart; places of removed ranks are used again.

    Raises:
        ValueError: The budget does not hold a single row of blocks.
    """

    def __init__(self, max_bytes: int, n_ranks: int = 64) -> None:
        # One word more than for the ranks: when the block was used last.
        self._n_words = max(1, -(-n_ranks // _WORD_BITS)) + 1
        self.bytes_per_block = 8 + _WORD_BYTES * self._n_words
        n_sets = max_bytes // (self.bytes_per_block * N_WAYS)
        if n_sets < 1:
            raise ValueError(f"{max_bytes} bytes hold no prefix index.")
        self._n_sets = n_sets
        n_slots = self._n_sets * N_WAYS
        # Filled, not only asked for: the first touch of so much memory stops a process for long
        # (0.6 s seen for 400 MB), and it would be in the middle of a request.
        table = np.full(n_slots + _LINE_BYTES // 8, 0, np.uint64)
        start = -table.ctypes.data % _LINE_BYTES // 8
        self._hashes = table[start : start + n_slots]
        self._sets = self._hashes.reshape(-1, N_WAYS)
        # Who holds it, a bit a rank, and the time of its last use: looked at together.
        self._blocks = np.full((n_slots, self._n_words), 0, np.uint32)
        self._tick = 1
        self._n_adds = 0
        self._ways = np.arange(N_WAYS, dtype=np.int64)
        self._newest_horizon = 0
        self._horizons = np.zeros((self._n_words - 1) * _WORD_BITS, np.uint32)
        self._evictions: dict[int, _Evictions] = {}
        self._last: tuple[Hashes, NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def n_slots(self) -> int:
        """Blocks that the table can hold."""
        return self._n_sets * N_WAYS

    @property
    def n_held(self) -> int:
        """Blocks that the table holds; goes through all of it."""
        return int(np.count_nonzero(self._hashes))

    @property
    def n_places(self) -> int:
        """Ranks that can be told apart."""
        return len(self._horizons)

    def add_rank(self, rank: int, capacity_blocks: int) -> None:
        """Tells a rank's place and the size of its cache, in blocks."""
        # The place may have been another rank's.
        self._tick += 1
        self._set_horizon(rank, self._tick)
        self._evictions[rank] = _Evictions(capacity_blocks, self._tick)

    def known(self, hashes: Hashes) -> NDArray[np.int64]:
        """Counts the leading blocks that each rank holds.

        Args:
            hashes: Chained hashes of a prompt's blocks, the first one first.

        Returns:
            One number for each place of a rank.
        """
        slots = self._leading(hashes)
        if not len(slots):
            return np.zeros(self.n_places, np.int64)
        # A block that was evicted ends the prefix, whatever lies behind it: so of each rank the
        # blocks count up to the first that it was not given, and up to the first that is too old.
        blocks = self._blocks.take(slots, axis=0)
        if blocks.tobytes() == blocks[0].tobytes() * len(blocks):
            # As of a prompt that was given to each of its ranks as a whole.
            n_given = self._bits(blocks[0, :-1]).astype(np.int64) * len(blocks)
        else:
            n_given = self._n_given(np.ascontiguousarray(blocks[:, :-1]))
        used = blocks[:, -1]
        if used.min() >= self._newest_horizon:
            return n_given
        oldest = np.minimum.accumulate(used)
        n_fresh = len(slots) - np.searchsorted(oldest[::-1], self._horizons)
        n_held: NDArray[np.int64] = np.minimum(n_given, n_fresh)
        return n_held

    def _set_horizon(self, rank: int, tick: int) -> None:
        self._horizons[rank] = tick
        self._newest_horizon = max(self._newest_horizon, tick)

    def _n_given(self, holders: NDArray[np.uint32]) -> NDArray[np.int64]:
        """By rank, the leading blocks that it was given."""
        n_blocks = len(holders)
        held = np.bitwise_and.accumulate(holders, axis=0)
        if held[0].tobytes() == held[-1].tobytes():
            # Bits are only ever lost on the way, so nothing was.
            return self._bits(held[0]) * np.int64(n_blocks)
        is_change = (held[1:] != held[:-1]).any(axis=1)
        edges = np.concatenate(([0], np.flatnonzero(is_change) + 1, [n_blocks]))
        bits = self._bits(held[edges[:-1]])
        n_given: NDArray[np.int64] = (edges[1:] - edges[:-1]) @ bits.astype(np.int64)
        return n_given

    @staticmethod
    def _bits(holders: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """One number for each place of a rank, 1 where it holds the block."""
        return np.unpackbits(holders.view(np.uint8), axis=-1, bitorder="little")

    def add(self, rank: int, hashes: Hashes) -> None:
        """Notes that a rank was given a prompt of these blocks."""
        if not len(hashes):
            return
        self._n_adds += 1
        if not self._n_adds % _ADDS_A_TICK:
            self._tick += 1
        slots, rows = self._find(hashes)
        if len(rows) < len(hashes):
            is_missing = np.ones(len(hashes), bool)
            is_missing[rows] = False
            found, slots = slots, np.empty(len(hashes), np.int64)
            slots[rows] = found
            slots[is_missing] = self._place(hashes[is_missing])
            # Two blocks of one prompt may have taken one place; the later one has it.
            is_ours = self._hashes[slots] == hashes
            slots = slots[is_ours]
        word, bit = divmod(rank, _WORD_BITS)
        mask = np.uint32(1 << bit)
        blocks = self._blocks.take(slots, axis=0)
        is_new = (blocks[:, word] & mask) == 0
        is_new |= blocks[:, -1] < self._horizons[rank]
        blocks[:, word] |= mask
        blocks[:, -1] = self._tick
        self._blocks[slots] = blocks
        self._set_horizon(rank, self._evictions[rank].note(int(is_new.sum()), self._tick))

    def forget(self, rank: int) -> None:
        """Drops all that a rank held, as after a restart or a flush.

        Nothing is walked through: what was used until now counts as evicted.
        """
        self._tick += 1
        self._set_horizon(rank, self._tick)
        capacity_blocks = self._evictions[rank].capacity_blocks
        self._evictions[rank] = _Evictions(capacity_blocks, self._tick)

    def _leading(self, hashes: Hashes) -> NDArray[np.int64]:
        """The slots of the leading blocks that are there."""
        # Most prompts share nothing or much; of one that shares nothing one block is looked up.
        if not len(hashes):
            return _NO_SLOTS
        first = int(hashes[0])
        if first not in self._sets[first % self._n_sets].tolist():
            return _NO_SLOTS
        slots, rows = self._find(hashes)
        if rows[-1] == len(rows) - 1:
            return slots
        return slots[: (rows != np.arange(len(rows))).argmax()]

    def _find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slots of the hashes that are there, and which those are, in their order.

        A prompt is mostly looked up twice in a row: to choose its rank, and to note the choice.
        """
        last = self._last
        if last is not None and last[0] is hashes:
            return last[1], last[2]
        sets = self._sets_of(hashes)
        same = self._sets.take(sets, axis=0) == hashes[:, None]
        places = same.ravel().nonzero()[0]
        rows = places >> _WAY_BITS
        slots: NDArray[np.int64] = (sets.take(rows) << _WAY_BITS) + (places & (N_WAYS - 1))
        self._last = (hashes, slots, rows)
        return slots, rows

    def _sets_of(self, hashes: Hashes) -> NDArray[np.int64]:
        """The set of each hash; small numbers, so their sign does not matter."""
        sets: NDArray[np.int64] = (hashes % np.uint64(self._n_sets)).view(np.int64)
        return sets

    def _place(self, hashes: Hashes) -> NDArray[np.int64]:
        """Gives each new hash the place used least recently among its own."""
        first = self._sets_of(hashes) << _WAY_BITS
        used = self._blocks[first[:, None] + self._ways, -1]
        slots: NDArray[np.int64] = first + used.argmin(axis=1)
        ordered = np.sort(first)
        if (ordered[1:] == ordered[:-1]).any():
            # Several new blocks share a set: each takes the next oldest place of it.
            order = np.argsort(first, kind="stable")
            ordered = first[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            lengths = np.diff(np.r_[starts, len(first)])
            turn = np.empty(len(first), np.int64)
            turn[order] = np.arange(len(first)) - np.repeat(starts, lengths)
            more = np.flatnonzero(turn)
            oldest = np.argsort(used[more], axis=1)
            slots[more] = first[more] + oldest[np.arange(len(more)), turn[more] % N_WAYS]
        self._hashes[slots] = hashes
        self._blocks[slots, :-1] = 0
        self._last = None
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
