"""What prefill ranks have cached: as they tell it themselves, else as the prefix index predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.workers.kv_events import Cleared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.scheduling.kv_view import KvView
    from app.scheduling.prefix_index import PrefixIndex
    from app.scheduling.wait_queue import Waiting
    from app.workers.kv_events import KvEvent


class Prefixes:
    """The prefix index, corrected where ranks publish their KV events.

    Args:
        index: Who was given which prompts.
        block_tokens: Tokens of a block of the index.
        kv: What ranks tell of their caches; None if nobody listens.
    """

    def __init__(self, index: PrefixIndex, block_tokens: int, kv: KvView | None) -> None:
        self._index = index
        self._block_tokens = block_tokens
        self._kv = kv

    def add_rank(self, place: int, capacity_blocks: int) -> None:
        """A rank has this place, with a cache of so many blocks of the index."""
        self._index.add_rank(place, capacity_blocks)
        if self._kv is not None:
            self._kv.open(place)

    def close(self, place: int) -> None:
        """The rank is no more; forget it first."""
        if self._kv is not None:
            self._kv.close(place)

    def forget(self, place: int) -> None:
        """Forgets what a rank's cache held."""
        self._index.forget(place)
        if self._kv is not None:
            self._kv.forget(place)

    def n_cached(self, waiting: Waiting) -> NDArray[np.int64]:
        """By place, the tokens of a prompt that need not be computed there."""
        known = self._index.known(waiting.hashes) * self._block_tokens
        if self._kv is not None and waiting.prompt is not None:
            self._kv.correct(known, waiting.prompt)
        return known

    def add(self, place: int, waiting: Waiting) -> None:
        """A rank was sent a prompt."""
        self._index.add(place, waiting.hashes)
        if self._kv is not None and waiting.prompt is not None:
            self._kv.expect(place, waiting.prompt)

    def finish(self, place: int, waiting: Waiting) -> None:
        """The rank is done with a prompt, whose tokens are not needed any more."""
        if self._kv is not None and waiting.prompt is not None:
            self._kv.settle(place, waiting.prompt)
        waiting.prompt = None

    def take(self, place: int, event: KvEvent) -> None:
        """Takes a rank's word on its cache."""
        if self._kv is not None:
            self._kv.take(place, event)
            if isinstance(event, Cleared):
                # So are prompts of which only the text is known.
                self._index.forget(place)
