"""What a request would have waited for elsewhere, and what its worker cost it.

For each other prefill worker there is a prediction from the moment of the grant: the queue's own,
as recorded, or, where a policy chose without one, what the record tells: the worker was busy until
the last request that it had then was computed, and computes what of the prompt was not in its
cache at the rate that it has shown. Either is corrected by the worker's measured error: how far
predictions were off for the requests that it did get, the latest counting most.

The regret of a request is what it took from the grant to prefill's end less the best such
prediction, and never below 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.observability.flight_recorder import Flight
from app.observability.notes import OK
from app.observability.phases import TIMES

BLOCK_TOKENS = 512
KEEP = 0.8
"""Of a worker's error, from one request to the next."""
_GRANTED, _PREFILL_ENDED, _FIRST = (
    TIMES.index(name) for name in ("granted_s", "prefill_ended_s", "first_s")
)


@dataclass(frozen=True, slots=True)
class Hindsight:
    """One request, looked at afterwards. Times are seconds from the grant.

    Attributes:
        prefill_s: What prefill took, its wait at the worker included.
        would_s: What it would have taken on other workers, by URL.
        regret_s: By how much the best of those would have been faster; None: there was no other.
        decode_s: From prefill's end to the first token of a stream; None: there was none.
        decode_regret_s: By how much another decode worker is usually faster there.
        first_error_s: By how much the first token was later than expected at the grant (earlier:
            negative): prefill as predicted, and what decode had usually taken; None: nobody knew.
    """

    prefill_s: float
    would_s: dict[str, float]
    regret_s: float | None
    decode_s: float | None
    decode_regret_s: float | None
    first_error_s: float | None


@dataclass(slots=True)
class _Known:
    """What is known of a worker so far."""

    error_s: float | None = None
    busy_until_s: float = 0.0
    n_tokens: int = 0
    busy_s: float = 0.0
    held: set[int] = field(default_factory=set)
    computing: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    def settle(self, now_s: float) -> None:
        """Takes into the cache what was computed by now."""
        for ended_s, blocks in self.computing:
            if ended_s <= now_s:
                self.held.update(blocks)
        self.computing = [one for one in self.computing if one[0] > now_s]

    def n_uncached(self, flight: Flight) -> int:
        """Tokens of a prompt that it would have had to compute."""
        held, blocks = self.held, flight.blocks
        n_hit = next((i for i, block in enumerate(blocks) if block not in held), len(blocks))
        n_prompt = flight.n_prompt if flight.n_prompt >= 0 else flight.n_estimated
        return max(1, n_prompt - n_hit * BLOCK_TOKENS)

    def predicted_s(self, flight: Flight, granted_s: float) -> float | None:
        """What a request would take here, where the queue has not said; None: nobody knows."""
        if not self.n_tokens:
            return None
        wait_s = max(0.0, self.busy_until_s - granted_s)
        return wait_s + self.n_uncached(flight) * self.busy_s / self.n_tokens


def look_back(flights: Sequence[Flight]) -> list[Hindsight | None]:
    """Looks at requests of pairs whose prefill has ended; None in the place of all others.

    Args:
        flights: Requests that are over. Those before the ones that are asked about teach what
            workers are like.
    """
    prefills: dict[str, _Known] = defaultdict(_Known)
    decodes: dict[str, float] = {}
    found: list[Hindsight | None] = [None] * len(flights)
    for place in sorted(range(len(flights)), key=lambda one: flights[one].times[_GRANTED]):
        flight = flights[place]
        if flight.prefill == flight.decode or not flight.times[_PREFILL_ENDED]:
            continue
        hindsight = found[place] = _look_at(flight, prefills, decodes)
        _learn(flight, prefills, hindsight)
        if hindsight.decode_s is not None:
            _mix(decodes, flight.decode, hindsight.decode_s)
    return found


def _look_at(flight: Flight, prefills: dict[str, _Known], decodes: dict[str, float]) -> Hindsight:
    granted_s, ended_s = flight.times[_GRANTED], flight.times[_PREFILL_ENDED]
    prefill_s = ended_s - granted_s
    would_s = {}
    for url, predicted_s in _predictions(flight, prefills).items():
        if url != flight.prefill:
            would_s[url] = max(0.0, predicted_s + (prefills[url].error_s or 0.0))
    decode_s = decode_regret_s = first_error_s = None
    if flight.is_stream and flight.outcome == OK and flight.times[_FIRST]:
        decode_s = max(0.0, flight.times[_FIRST] - ended_s)
        others = [usual_s for url, usual_s in decodes.items() if url != flight.decode]
        if others:
            decode_regret_s = max(0.0, decode_s - min(others))
        if flight.expected_s and flight.decode in decodes:
            expected_s = flight.expected_s + decodes[flight.decode]
            first_error_s = prefill_s + decode_s - expected_s
    regret_s = max(0.0, prefill_s - min(would_s.values())) if would_s else None
    return Hindsight(prefill_s, would_s, regret_s, decode_s, decode_regret_s, first_error_s)


def _predictions(flight: Flight, prefills: dict[str, _Known]) -> dict[str, float]:
    """The queue's, the best of each worker's ranks; without a queue those of the record."""
    found: dict[str, float] = {}
    if flight.candidates:
        for url, predicted_s in flight.candidates:
            found[url] = min(predicted_s, found.get(url, predicted_s))
        return found
    for url, known in prefills.items():
        known.settle(flight.times[_GRANTED])
        guess_s = known.predicted_s(flight, flight.times[_GRANTED])
        if guess_s is not None:
            found[url] = guess_s
    return found


def _learn(flight: Flight, prefills: dict[str, _Known], seen: Hindsight) -> None:
    """Takes the request into account of the worker that it went to."""
    granted_s, ended_s = flight.times[_GRANTED], flight.times[_PREFILL_ENDED]
    known = prefills[flight.prefill]
    known.settle(granted_s)
    predicted_s = flight.expected_s or known.predicted_s(flight, granted_s)
    if flight.outcome != OK:
        return
    if predicted_s is not None:
        error_s = seen.prefill_s - predicted_s
        known.error_s = (
            error_s if known.error_s is None else KEEP * known.error_s + (1 - KEEP) * error_s
        )
    n_uncached = known.n_uncached(flight)
    if flight.n_cached >= 0 and flight.n_prompt >= 0:
        n_uncached = max(1, flight.n_prompt - flight.n_cached)
    known.n_tokens += n_uncached
    known.busy_s += max(0.0, ended_s - max(granted_s, known.busy_until_s))
    known.busy_until_s = max(known.busy_until_s, ended_s)
    known.computing.append((ended_s, flight.blocks))


def _mix(decodes: dict[str, float], url: str, taken_s: float) -> None:
    before_s = decodes.get(url)
    decodes[url] = taken_s if before_s is None else KEEP * before_s + (1 - KEEP) * taken_s
