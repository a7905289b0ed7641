"""What one rank of a simulated engine tells of its prefix cache, in batches that it numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_N_KEPT = 10_000
"""As the publishers of SGLang 0.5.23 and vLLM 0.32 keep them."""


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks that follow one another were stored."""

    names: Sequence[int]
    parent: int | None
    ids: Sequence[int]
    size: int


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks were removed."""

    names: Sequence[int]


@dataclass(frozen=True, slots=True)
class AllCleared:
    """Everything was removed."""


CacheEvent: TypeAlias = BlocksStored | BlocksRemoved | AllCleared
Batch: TypeAlias = tuple[int, Sequence[CacheEvent]]


class KvLog:
    """Numbers batches, keeps the last ones, and hands them to whoever listens.

    Attributes:
        kept: The last batches.
        n_to_lose: So many of the next batches are numbered and kept, and nobody hears of them.
    """

    def __init__(self) -> None:
        self.kept: deque[Batch] = deque(maxlen=_N_KEPT)
        self.n_to_lose = 0
        self._number = 0
        self._listeners: list[Callable[[Batch], None]] = []

    def tell(self, events: Sequence[CacheEvent]) -> None:
        """Tells what changed at once; nothing if nothing did."""
        if not events:
            return
        batch = (self._number, tuple(events))
        self._number += 1
        self.kept.append(batch)
        if self.n_to_lose:
            self.n_to_lose -= 1
            return
        for listener in tuple(self._listeners):
            listener(batch)

    def listen(self, listener: Callable[[Batch], None]) -> Callable[[], None]:
        """Calls ``listener`` with every batch from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def restart(self) -> None:
        """Counts from 0 again, as a new process does."""
        self._number = 0
        self.kept.clear()


def kv_log(is_wanted: bool) -> KvLog | None:
    """Returns a new log for a rank that tells of its cache, or none."""
    return KvLog() if is_wanted else None
