"""Whether what was predicted of a rank's prefix cache comes true."""

from __future__ import annotations

from dataclasses import dataclass

_ENOUGH_TOKENS = 16_384
_KEPT_TOKENS = 65_536
_WRONG_SHARE = 0.25


@dataclass(slots=True)
class _Hits:
    n_predicted: float = 0.0
    n_reported: float = 0.0
    is_told: bool = False


class HitChecks:
    """Compares the cached tokens that were predicted with those that engines report.

    A cache that was emptied behind the gateway's back, or holds less than the worker said, shows
    here. An engine that has never reported a hit is believed to report none: versions and flags
    differ in that.
    """

    def __init__(self) -> None:
        self._by_place: dict[int, _Hits] = {}

    def note(self, place: int, n_predicted: float, n_reported: int) -> bool:
        """Takes the report of one request; returns whether the predictions are worth nothing.

        Args:
            place: The rank's.
            n_predicted: Tokens that the index took for cached there.
            n_reported: Tokens that were.
        """
        hits = self._by_place.setdefault(place, _Hits())
        hits.is_told = hits.is_told or n_reported > 0
        hits.n_predicted += n_predicted
        # Hits that nobody predicted make up for no miss.
        hits.n_reported += min(n_predicted, n_reported)
        if hits.n_predicted > _KEPT_TOKENS:
            hits.n_predicted /= 2
            hits.n_reported /= 2
        return (
            hits.is_told
            and hits.n_predicted >= _ENOUGH_TOKENS
            and hits.n_reported < _WRONG_SHARE * hits.n_predicted
        )

    def restart(self, place: int, *, is_new: bool = False) -> None:
        """Begins anew with a rank whose cache is taken for empty, or with another rank."""
        if is_new:
            self._by_place.pop(place, None)
        elif (hits := self._by_place.get(place)) is not None:
            hits.n_predicted = hits.n_reported = 0.0
