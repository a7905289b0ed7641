"""The last minutes cut by time, by phase and by failure, for a page that draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from app.observability.flight_recorder import Flight
from app.observability.notes import CLIENT_GONE, OK
from app.observability.phases import PHASES, TIMES, cut

N_STEPS = 60
"""Points of a line."""
N_CUT = 1_000
"""Requests whose phases are averaged: the latest ones. More would tell little and cost time."""
_ENDED, _FIRST, _LAST = (TIMES.index(name) for name in ("ended_s", "first_s", "last_s"))


def time_series(flights: Iterable[Flight], now_s: float, window_s: float) -> dict[str, Any]:
    """Returns figures of each step of the window, the oldest step first.

    Steps begin at multiples of their length, so a step keeps its figures as time goes on; the
    last one is not over yet.

    Args:
        flights: Requests that are over.
        now_s: The time of the gateway's clock.
        window_s: How far back to look; it is cut into ``N_STEPS``.

    Returns:
        ``step_s``; ``last_ago_s``, how long ago the last step began; and lists with an entry each
        step: ``requests``, ``failed`` (clients that left are none), ``ttft_p50_s`` and
        ``ttft_p95_s``, ``tpot_p50_s`` and ``tpot_p95_s`` of streams, None where there was none.
    """
    step_s = window_s / N_STEPS
    last = int(now_s // step_s)
    n_requests, n_failed = [0] * N_STEPS, [0] * N_STEPS
    ttft: list[list[float]] = [[] for _ in range(N_STEPS)]
    tpot: list[list[float]] = [[] for _ in range(N_STEPS)]
    for flight in flights:
        step = N_STEPS - 1 - last + int(flight.times[_ENDED] // step_s)
        if not 0 <= step < N_STEPS:
            continue
        n_requests[step] += 1
        if flight.outcome not in (OK, CLIENT_GONE):
            n_failed[step] += 1
        if flight.is_stream and flight.times[_FIRST]:
            ttft[step].append(flight.times[_FIRST] - flight.arrived_s)
            if (one_s := tpot_s(flight)) is not None:
                tpot[step].append(one_s)
    return {
        "step_s": step_s,
        "last_ago_s": round(now_s - last * step_s, 3),
        "requests": n_requests,
        "failed": n_failed,
        "ttft_p50_s": [_at(0.5, values) for values in ttft],
        "ttft_p95_s": [_at(0.95, values) for values in ttft],
        "tpot_p50_s": [_at(0.5, values) for values in tpot],
        "tpot_p95_s": [_at(0.95, values) for values in tpot],
    }


def phase_figures(flights: Sequence[Flight]) -> dict[str, Any]:
    """Returns what the phases of good requests took, of streams and of whole answers.

    Of a whole answer decode's work is part of ``first_token``, so the two are kept apart.

    Returns:
        By ``stream`` and ``whole``: ``n`` requests, and ``phases``, each with its ``name``,
        ``mean_s`` over all of them (the means add up to the mean duration) and ``p95_s``.
    """
    good = [flight for flight in flights if flight.outcome == OK][-N_CUT:]
    return {
        name: _phases([flight for flight in good if flight.is_stream is is_stream])
        for name, is_stream in (("stream", True), ("whole", False))
    }


def worker_figures(flights: Iterable[Flight], span_s: float) -> dict[str, dict[str, float]]:
    """Returns what workers did in a time, by URL.

    Args:
        flights: Requests that ended in that time.
        span_s: Its length.

    Returns:
        ``requests_per_s``; ``tokens_per_s``, prompt tokens computed by a prefill worker, tokens
        made by any other; ``cached_share`` of the prompt tokens, of prefill workers only and only
        if there were any.
    """
    n_requests: Counter[str] = Counter()
    n_made: Counter[str] = Counter()
    n_prompt: Counter[str] = Counter()
    n_cached: Counter[str] = Counter()
    for flight in flights:
        if flight.prefill != flight.decode:
            n_requests[flight.prefill] += 1
            n_prompt[flight.prefill] += max(0, flight.n_prompt)
            n_cached[flight.prefill] += max(0, flight.n_cached)
            n_made[flight.prefill] += max(0, flight.n_prompt) - max(0, flight.n_cached)
        n_requests[flight.decode] += 1
        n_made[flight.decode] += max(0, flight.n_completion)
    found = {}
    for url, n in n_requests.items():
        rates = {"requests_per_s": n / span_s, "tokens_per_s": n_made[url] / span_s}
        if n_prompt[url]:
            rates["cached_share"] = n_cached[url] / n_prompt[url]
        found[url] = {name: round(value, 4) for name, value in rates.items()}
    return found


def failures(flights: Iterable[Flight]) -> list[dict[str, Any]]:
    """Returns how many requests did not end well, by outcome and failed leg, most first."""
    counted = Counter((flight.outcome, flight.leg) for flight in flights if flight.outcome != OK)
    return [
        {"outcome": outcome, "leg": leg, "requests": n}
        for (outcome, leg), n in counted.most_common()
    ]


def tpot_s(flight: Flight) -> float | None:
    """Returns the mean time between tokens of a good stream; None if there is none to tell."""
    n_after_first = flight.n_completion - 1
    if not flight.is_stream or flight.outcome != OK or n_after_first < 1:
        return None
    return (flight.times[_LAST] - flight.times[_FIRST]) / n_after_first


def _phases(flights: Sequence[Flight]) -> dict[str, Any]:
    spent: dict[str, list[float]] = {name: [] for name in PHASES}
    for flight in flights:
        for name, spent_s in cut(flight.times):
            spent[name].append(spent_s)
    found = []
    for name, values in spent.items():
        if values:
            # A request that skipped the phase took no time for it.
            all_of_them = [0.0] * (len(flights) - len(values)) + values
            mean_s = round(sum(values) / len(flights), 6)
            found.append({"name": name, "mean_s": mean_s, "p95_s": _at(0.95, all_of_them)})
    return {"n": len(flights), "phases": found}


def _at(share: float, values: list[float]) -> float | None:
    if not values:
        return None
    values.sort()
    return round(values[min(len(values) - 1, int(share * len(values)))], 6)
