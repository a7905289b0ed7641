"""The last minutes as one JSON-able object, for a page that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from app.observability.flight_recorder import Flight
from app.observability.hindsight import Hindsight, look_back
from app.observability.live_series import (
    failures,
    phase_figures,
    time_series,
    tpot_s,
    worker_figures,
)
from app.observability.phases import TIMES, cut
from app.workers.worker import Worker

N_RECENT = 50
"""Requests that are shown one by one."""
N_LEARNED = 500
"""Requests that teach what workers are like, for what those would have been elsewhere."""
N_ELSEWHERE = 8
SHARES = (0.5, 0.9, 0.95, 0.99)
_ENDED, _FIRST = (TIMES.index(name) for name in ("ended_s", "first_s"))


def live_view(
    workers: Iterable[dict[str, Any]], flights: Iterable[Flight], now_s: float, window_s: float
) -> dict[str, Any]:
    """Puts together what the fleet does and what clients got of it.

    Args:
        workers: All workers, as :func:`worker_row` shows them.
        flights: Requests that are over, in the order of their ends.
        now_s: The time of the gateway's clock.
        window_s: How far back percentiles, flows and rates look.

    Returns:
        ``workers``, one entry each; ``flows``, requests by prefill and decode worker;
        ``percentiles`` in seconds; ``outcomes`` and ``failed_legs``; ``requests_per_s`` and
        ``tokens_per_s``; ``phases``, ``failures`` and ``series`` as
        :mod:`app.observability.live_series` tells; ``recent``, the latest request first, with
        its phases, and what it would have been on other prefill workers.
    """
    recent = [flight for flight in flights if flight.times[_ENDED] >= now_s - window_s]
    # A gateway that has just begun has no whole window behind it.
    span_s = max(1.0, min(window_s, now_s - min((f.arrived_s for f in recent), default=now_s)))
    figures = worker_figures(recent, span_s)
    tokens = sum(max(0, flight.n_completion) for flight in recent)
    return {
        "window_s": window_s,
        "workers": [worker | figures.get(worker["url"], {}) for worker in workers],
        "flows": [
            {"prefill": prefill, "decode": decode, "requests": n}
            for (prefill, decode), n in Counter(
                (flight.prefill, flight.decode) for flight in recent if flight.prefill
            ).items()
        ],
        "percentiles": {
            "ttft_s": _percentiles([_ttft_s(f) for f in recent if f.is_stream and f.times[_FIRST]]),
            "tpot_s": _percentiles([one for f in recent if (one := tpot_s(f)) is not None]),
            "duration_s": _percentiles([f.times[_ENDED] - f.arrived_s for f in recent]),
        },
        "outcomes": dict(Counter(flight.outcome for flight in recent)),
        "failures": failures(recent),
        "failed_legs": dict(Counter(flight.leg for flight in recent if flight.leg)),
        "requests_per_s": round(len(recent) / span_s, 3),
        "tokens_per_s": round(tokens / span_s, 3),
        "phases": phase_figures(recent),
        "series": time_series(recent, now_s, window_s),
        "recent": _latest(recent[-N_LEARNED:], now_s),
    }


def worker_row(worker: Worker) -> dict[str, Any]:
    """Returns what is shown of a worker beside the requests."""
    return {
        "id": worker.id,
        "url": worker.spec.url,
        "role": str(worker.spec.role),
        "engine": str(worker.spec.engine),
        "state": str(worker.state),
        "reason": worker.state_reason,
        "load": worker.n_leases,
        "kv_held": worker.n_held,
        "breaker": worker.breaker.state,
        "failures": worker.n_charged,
        "models": list(worker.model_ids),
        "last_error": worker.last_error,
    }


def _latest(flights: Sequence[Flight], now_s: float) -> list[dict[str, Any]]:
    """The latest first, each with what it would have been on other prefill workers."""
    pairs = list(zip(flights, look_back(flights), strict=True))
    found = []
    for flight, seen in reversed(pairs[-N_RECENT:]):
        row = _request(flight, now_s)
        row["regret_s"] = None if seen is None or seen.regret_s is None else round(seen.regret_s, 6)
        row["would_have_been"] = [] if seen is None else _elsewhere(flight, seen)
        found.append(row)
    return found


def _elsewhere(flight: Flight, seen: Hindsight) -> list[dict[str, Any]]:
    """Prefill on other workers, fastest first; the first token comes as much later or earlier."""
    first_s = flight.times[_FIRST] - flight.arrived_s if flight.times[_FIRST] else None
    return [
        {
            "worker": url,
            "prefill_s": round(would_s, 6),
            "first_s": None if first_s is None else round(first_s + would_s - seen.prefill_s, 6),
        }
        for url, would_s in sorted(seen.would_s.items(), key=lambda one: one[1])[:N_ELSEWHERE]
    ]


def _request(flight: Flight, now_s: float) -> dict[str, Any]:
    return {
        "id": flight.request_id,
        "ended_ago_s": round(now_s - flight.times[_ENDED], 3),
        **flight.facts(),
        "prompt_tokens": max(0, flight.n_prompt),
        "cached_tokens": max(0, flight.n_cached),
        "completion_tokens": max(0, flight.n_completion),
        "expected_prefill_s": round(flight.expected_s, 6) or None,
        "phases": [[name, round(spent_s, 6)] for name, spent_s in cut(flight.times)],
    }


def _ttft_s(flight: Flight) -> float:
    return flight.times[_FIRST] - flight.arrived_s


def _percentiles(values: Sequence[float]) -> dict[str, float | int]:
    """Returns ``p50`` and so on, and their number ``n``; of no value only that."""
    ordered = sorted(values)
    found: dict[str, float | int] = {"n": len(ordered)}
    for share in SHARES if ordered else ():
        place = min(len(ordered) - 1, int(share * len(ordered)))
        found[f"p{share * 100:.0f}"] = round(ordered[place], 6)
    return found
