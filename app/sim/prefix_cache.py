"""A prefix cache of pages, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from app.sim.kv_log import AllCleared, BlocksRemoved, BlocksStored, KvLog


class PrefixCache:
    """Remembers which prefixes were computed.

    Args:
        page_size: Tokens of a page; only whole pages are shared.
        max_tokens: Size of the cache.
        log: Where it tells what it stores and drops; its pages' names are their own.
    """

    def __init__(self, page_size: int, max_tokens: int, log: KvLog | None = None) -> None:
        self._page_size = page_size
        self._max_pages = max(1, max_tokens // page_size)
        self._pages: OrderedDict[int, None] = OrderedDict()
        self.log = log

    def match(self, ids: Sequence[int]) -> int:
        """Cached tokens of this prompt; its last token is always computed."""
        n_pages = 0
        for key in self._keys(ids[:-1]):
            if key not in self._pages:
                break
            n_pages += 1
        return n_pages * self._page_size

    def insert(self, ids: Sequence[int]) -> None:
        """Keep the pages of a computed prompt."""
        keys = list(self._keys(ids))
        n_known = 0 if self.log is None else self._n_known(keys)
        # Leaf first, so that a root outlives the pages that hang on it.
        for key in reversed(keys):
            self._pages[key] = None
            self._pages.move_to_end(key)
        dropped = []
        while len(self._pages) > self._max_pages:
            dropped.append(self._pages.popitem(last=False)[0])
        if self.log is not None:
            self.log.tell([*self._stored(keys, n_known, ids), *_removed(dropped)])

    def _n_known(self, keys: Sequence[int]) -> int:
        return next((n for n, key in enumerate(keys) if key not in self._pages), len(keys))

    def _stored(
        self, keys: Sequence[int], n_known: int, ids: Sequence[int]
    ) -> Iterator[BlocksStored]:
        if n_known < len(keys):
            size = self._page_size
            parent = keys[n_known - 1] if n_known else None
            told = tuple(ids[n_known * size : len(keys) * size])
            yield BlocksStored(keys[n_known:], parent, told, size)

    def clear(self) -> None:
        """Forget everything."""
        self._pages.clear()
        if self.log is not None:
            self.log.tell([AllCleared()])

    def restart(self) -> None:
        """Be as new, in a new process."""
        self._pages.clear()
        if self.log is not None:
            self.log.restart()

    @property
    def n_tokens(self) -> int:
        """Tokens held."""
        return len(self._pages) * self._page_size

    def _keys(self, ids: Sequence[int]) -> Iterator[int]:
        key = 0
        size = self._page_size
        for start in range(0, len(ids) - size + 1, size):
            key = hash((key, *ids[start : start + size]))
            yield key


def _removed(keys: Sequence[int]) -> Iterator[BlocksRemoved]:
    if keys:
        yield BlocksRemoved(keys)
