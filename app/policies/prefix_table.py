"""Which prompt prefixes each worker has seen, as hashes of blocks."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def chained_hashes(seed: str | None, key: bytes, block_bytes: int) -> list[int]:
    """Hash a prompt block by block, each hash over everything up to its block's end.

    Python's own hash serves: 64 bits, keyed per process, four times as fast as BLAKE2, and
    nothing of it leaves the process. The last block may be short.

    Args:
        seed: What must differ for equal prompts not to match, the model.
        key: The prompt.
        block_bytes: Length of a block.
    """
    chained = hash(seed)
    hashes = []
    for start in range(0, len(key), block_bytes):
        chained = hash((chained, key[start : start + block_bytes]))
        hashes.append(chained)
    return hashes


class PrefixTable:
    """For each worker the block hashes of the prompts that it was given, the latest last.

    Args:
        max_blocks_per_worker: The least recently used are dropped above this.
        max_blocks: The same for all workers together; taken from the fullest.
    """

    def __init__(self, max_blocks_per_worker: int, max_blocks: int) -> None:
        self._max_blocks_per_worker = max_blocks_per_worker
        self._max_blocks = max_blocks
        self._blocks: dict[str, OrderedDict[int, None]] = {}
        self._n_blocks = 0

    @property
    def n_blocks(self) -> int:
        """Blocks of all workers."""
        return self._n_blocks

    def n_known(self, worker_id: str, hashes: Sequence[int]) -> int:
        """Return how many leading blocks the worker has seen."""
        blocks = self._blocks.get(worker_id)
        if not blocks:
            return 0
        n_known = 0
        for block in hashes:
            if block not in blocks:
                break
            n_known += 1
        return n_known

    def add(self, worker_id: str, hashes: Sequence[int]) -> None:
        """Note that the worker was given a prompt of these blocks."""
        blocks = self._blocks.get(worker_id)
        if blocks is None:
            blocks = self._blocks[worker_id] = OrderedDict()
        n_before = len(blocks)
        # The deepest block first, so that the ends of prompts are dropped before their
        # beginnings and what remains of a prompt is always a prefix.
        for block in reversed(hashes):
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self._max_blocks_per_worker:
            blocks.popitem(last=False)
        self._n_blocks += len(blocks) - n_before
        if self._n_blocks > self._max_blocks:
            self._drop(self._n_blocks - self._max_blocks)

    def forget(self, worker_id: str) -> None:
        """Drop all blocks of a worker."""
        blocks = self._blocks.pop(worker_id, None)
        if blocks is not None:
            self._n_blocks -= len(blocks)

    def _drop(self, n_blocks: int) -> None:
        while n_blocks > 0:
            fullest = max(self._blocks.values(), key=len)
            n_dropped = min(n_blocks, max(1, len(fullest) // 2))
            for _ in range(n_dropped):
                fullest.popitem(last=False)
            self._n_blocks -= n_dropped
            n_blocks -= n_dropped
