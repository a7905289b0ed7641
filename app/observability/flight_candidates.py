"""The candidates of a recorded request, packed: names by number, and what was expected of each."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.observability.notes import Candidates

MOST = 8
"""Candidates that are kept; of more those that would have been the fastest."""
_FLOATS = np.dtype("<f4")
_PACKED = [Struct(f"<{n}H{n}f") for n in range(MOST + 1)]


class CandidatePacker:
    """Packs what schedulers knew; the same workers come with nearly every request.

    Args:
        number_of: Gives a name its number.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        self._number_of = number_of
        self._roster: tuple[str, ...] = ()
        self._numbers = np.zeros(0, "<u2")
        self._packed_numbers = b""

    def pack(self, candidates: Candidates) -> tuple[int, bytes]:
        """Returns how many are kept, and they."""
        roster, finish_s = candidates.roster, candidates.finish_s
        if roster is not self._roster:
            self._roster = roster
            self._numbers = np.array([self._number_of(url) for url in roster], "<u2")
            self._packed_numbers = self._numbers.tobytes()
        n = len(roster)
        seconds = finish_s[:n].astype(_FLOATS)
        if n <= MOST:
            return n, self._packed_numbers + seconds.tobytes()
        # Of so few, sorting takes half as long as parting.
        places = seconds.argsort()[:MOST]
        return MOST, self._numbers[places].tobytes() + seconds[places].tobytes()


def n_bytes(n: int) -> int:
    """Returns what so many take up."""
    return _PACKED[n].size


def unpacked(record: bytes, at: int, n: int, names: list[str]) -> tuple[tuple[str, float], ...]:
    """Returns names and seconds of those that could have had the request."""
    found = _PACKED[n].unpack_from(record, at)
    return tuple(
        (names[number], finish_s)
        for number, finish_s in zip(found[:n], found[n:], strict=True)
        if finish_s < np.inf
    )
