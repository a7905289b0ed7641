"""Requests that wait for a prefill rank, with the work that each would be on each rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.scheduling.standing import NO_CLASS, SloClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.scheduling.prefix_index import Hashes
    from app.scheduling.token_prompt import TokenPrompt

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
        slo: Its class.
        tag: The caller's own.
        prompt: Its tokens, where they are known and somebody tells what tokens it has cached.
        row: Its row in the table; -1 while it is not in the queue.
        read_s: When its row was worked out.
        read_version: Of the index, at that time.
    """

    hashes: Hashes
    n_tokens: int
    arrived_s: float
    places: NDArray[np.bool_]
    key: str = ""
    slo: SloClass = NO_CLASS
    tag: Any = None
    prompt: TokenPrompt | None = None
    row: int = field(default=-1)
    read_s: float = field(default=0.0)
    read_version: int = field(default=-1)

    @property
    def deadline_s(self) -> float:
        """It is refused when it cannot have its first token by then; infinite for most."""
        return self.arrived_s + self.slo.deadline_s

    @property
    def is_timed(self) -> bool:
        """Whether it has a target or a deadline."""
        return min(self.slo.ttft_s, self.slo.deadline_s) != math.inf


class WaitQueue:
    """The rows of all that wait: uncached tokens by place, infinite where it may not go.

    Args:
        n_places: Columns of the table.
    """

    def __init__(self, n_places: int) -> None:
        self._entries: list[Waiting] = []
        self._uncached = np.empty((_FIRST_ROWS, n_places))
        # Arrival, target, deadline: seconds of one clock. Priority.
        self._facts = np.empty((_FIRST_ROWS, 4))
        self.n_timed = 0
        """How many have a target or a deadline."""

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
        return self._facts[: len(self._entries), 0]

    @property
    def target_s(self) -> NDArray[np.float64]:
        """When each is to have its first token."""
        return self._facts[: len(self._entries), 1]

    @property
    def deadline_s(self) -> NDArray[np.float64]:
        """When each must have it."""
        return self._facts[: len(self._entries), 2]

    @property
    def priority(self) -> NDArray[np.float64]:
        """The priority of each."""
        return self._facts[: len(self._entries), 3]

    @property
    def oldest_s(self) -> float:
        """When the one that waits longest entered; infinite if none waits."""
        return float(self.arrived_s.min(initial=math.inf))

    @property
    def n_tokens(self) -> float:
        """Uncached tokens of all, each where it has the fewest."""
        least = self.uncached.min(axis=1)
        return float(least[np.isfinite(least)].sum())

    def add(self, waiting: Waiting) -> None:
        """Puts a request at the end; its row is to be filled."""
        row = len(self._entries)
        if row == len(self._facts):
            self._uncached = np.concatenate([self._uncached, np.empty_like(self._uncached)])
            self._facts = np.concatenate([self._facts, np.empty_like(self._facts)])
        waiting.row = row
        arrived_s, slo = waiting.arrived_s, waiting.slo
        self._facts[row] = (arrived_s, arrived_s + slo.ttft_s, waiting.deadline_s, slo.priority)
        self._entries.append(waiting)
        self.n_timed += waiting.is_timed

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
            self._facts[row] = self._facts[last.row]
            last.row = row
        waiting.row = -1
        self.n_timed -= waiting.is_timed
        return True
