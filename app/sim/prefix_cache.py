"""A prefix cache of pages, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class PrefixCache:
    """Remembers which prefixes were computed.

    Args:
        page_size: Tokens of a page; only whole pages are shared.
        max_tokens: Size of the cache.
    """

    def __init__(self, page_size: int, max_tokens: int) -> None:
        self._page_size = page_size
        self._max_pages = max(1, max_tokens // page_size)
        self._pages: OrderedDict[int, None] = OrderedDict()

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
        # Leaf first, so that a root outlives the pages that hang on it.
        for key in reversed(list(self._keys(ids))):
            self._pages[key] = None
            self._pages.move_to_end(key)
        while len(self._pages) > self._max_pages:
            self._pages.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._pages.clear()

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
