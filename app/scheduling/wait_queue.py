"""Requests that wait for a prefill rank, with the work that each would be on each rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.prefix_index import Hashes

_FIRST_ROWS = 64


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue.

    Attributes:
        hashes: Chained hashes of its prompt's blocks.
        n_tokens: Its prompt.
        arrived_s: When it entered.
        places: The ranks that may take it: true at their places.
        key: Whom it is counted to; keys share the ranks by tokens.
        deadline_s: It is refused when it still waits by then.
        tag: The caller's own.
        row: Its row in the table; -1 while it is not in the queue.
        read_s: When its row was worked out.
    """

    hashes: Hashes
    n_tokens: int
    arrived_s: float
    places: NDArray[np.bool_]
    key: str = ""
    deadline_s: float = float("inf")
    tag: Any = None
    row: int = field(default=-1)
    read_s: float = field(default=0.0)


class WaitQueue:
    """The rows of all that wait: uncached tokens by place, infinite where it may not go.

    Args:
        n_places: Columns of the table.
    """

    def __init__(self, n_places: int) -> None:
        self._entries: list[Waiting] = []
        self._uncached = np.empty((_FIRST_ROWS, n_places))
        self._arrived_s = np.empty(_FIRST_ROWS)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._entries)

    def __getitem__(self, row: int) -> Waiting:
        return self._entries[row]

    @property
    def uncached(self) -> NDArray[np.float64]:
        """One row a request, in the order of the queue."""
        return self._uncached[: len(self._entries)]

    @property
    def arrived_s(self) -> NDArray[np.float64]:
        """When each request entered."""
        return self._arrived_s[: len(self._entries)]

    def add(self, waiting: Waiting) -> None:
        """Puts a request at the end; its row is to be filled."""
        row = len(self._entries)
        if row == len(self._arrived_s):
            self._uncached = np.concatenate([self._uncached, np.empty_like(self._uncached)])
            self._arrived_s = np.concatenate([self._arrived_s, np.empty_like(self._arrived_s)])
        waiting.row = row
        self._arrived_s[row] = waiting.arrived_s
        self._entries.append(waiting)

    def remove(self, waiting: Waiting) -> bool:
        """Takes a request out; returns whether it was there."""
        row = waiting.row
        if row < 0:
            return False
        last = self._entries.pop()
        if last is not waiting:
            # The last one fills the gap; order is by cost, not by place.
            self._entries[row] = last
            self._uncached[row] = self._uncached[last.row]
            self._arrived_s[row] = last.arrived_s
            last.row = row
        waiting.row = -1
        return True
