"""Recorded requests on their way between processes: packed as they lie, put together by time.

The processes of a gateway share the clock, and the key of the hashes of blocks.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from app.observability.flight_recorder import Flight, ended_s, taken_apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.observability.flight_recorder import FlightRecorder


@dataclass(frozen=True, slots=True)
class Piece:
    """Some requests of one recorder that follow each other.

    Attributes:
        records: Packed, by the times of their ends.
        names: What stands in them by number.
        has_more: The recorder holds older ones that were asked for.
        is_cut: There were older ones, whether it still holds them or not.
    """

    records: list[bytes]
    names: list[str]
    has_more: bool
    is_cut: bool

    @property
    def oldest_s(self) -> float:
        """When the first of them ended; never, if there is none."""
        return ended_s(self.records[0]) if self.records else float("inf")


def piece_of(
    recorder: FlightRecorder, since_s: float, before_s: float | None, n_most: int
) -> Piece:
    """Returns the latest requests that ended in a time; from any thread.

    Args:
        recorder: Whose.
        since_s: The time's beginning.
        before_s: Its end; None: now.
        n_most: How many at most.
    """
    records, names = recorder.packed()
    stop = len(records) if before_s is None else bisect_left(records, before_s, key=ended_s)
    oldest = bisect_left(records, since_s, key=ended_s)
    start = max(oldest, stop - n_most)
    has_forgotten = not oldest and recorder.n_recorded > len(records)
    return Piece(records[start:stop], names, start > oldest, start > oldest or has_forgotten)


class Pieces:
    """Those of one recorder, which come the latest ones first."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []

    def add(self, piece: Piece) -> None:
        """Takes the next older one."""
        self._pieces.append(piece)

    @property
    def has_more(self) -> bool:
        """There are older ones to be asked for."""
        return self._pieces[-1].has_more

    @property
    def n_bytes(self) -> int:
        """What they take up."""
        return sum(len(record) for piece in self._pieces for record in piece.records)

    @property
    def oldest_s(self) -> float:
        """When the first of them ended."""
        return min(piece.oldest_s for piece in self._pieces)

    @property
    def whole_since_s(self) -> float:
        """Since when none is missing."""
        return self.oldest_s if self._pieces[-1].is_cut else 0.0

    def n_since(self, begin_s: float) -> int:
        """How many of them ended since then."""
        return sum(
            len(piece.records) - bisect_left(piece.records, begin_s, key=ended_s)
            for piece in self._pieces
        )

    def since(self, begin_s: float) -> Iterator[tuple[float, bytes, list[str]]]:
        """Yields these, the oldest first: when, packed, and the names in it."""
        for piece in reversed(self._pieces):
            records = piece.records
            for record in records[bisect_left(records, begin_s, key=ended_s) :]:
                yield ended_s(record), record, piece.names


def n_whole(sources: Sequence[Pieces]) -> int:
    """Returns how many requests there are since the time from which none is missing."""
    begin_s = max((source.whole_since_s for source in sources), default=0.0)
    return sum(source.n_since(begin_s) for source in sources)


def put_together(sources: Sequence[Pieces], n_most: int | None) -> Iterator[Flight]:
    """Yields the requests of all recorders by the times of their ends.

    It begins where none is missing: a recorder that has been busier forgets sooner.

    Args:
        sources: What came of each.
        n_most: Only the latest so many.
    """
    begin_s = max((source.whole_since_s for source in sources), default=0.0)
    n_left_out = 0 if n_most is None else max(0, n_whole(sources) - n_most)
    together = merge(*(source.since(begin_s) for source in sources), key=itemgetter(0))
    for _, record, names in islice(together, n_left_out, None):
        yield taken_apart(record, names)
