"""What an engine says of one data-parallel rank's load, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RankLoad:
    """One rank's load at one moment.

    Attributes:
        asked_s: When it was asked.
        n_waiting_tokens: Uncached tokens of requests that wait for their first step.
        n_bootstrapping: Requests that have arrived and do not yet count as waiting.
        n_total_tokens: Uncached tokens computed since the engine started; 0 if it does not tell.
        busy_us: Microseconds it spent on them; 0 if it does not tell.
        n_used_tokens: Tokens of KV cache in use.
        n_kv_tokens: Tokens of KV cache altogether; 0 if it does not tell.
    """

    asked_s: float
    n_waiting_tokens: int
    n_bootstrapping: int = 0
    n_total_tokens: int = 0
    busy_us: int = 0
    n_used_tokens: int = 0
    n_kv_tokens: int = 0


def read_loads(rows: object, asked_s: float) -> dict[int, RankLoad]:
    """Reads the rows of SGLang's ``/v1/loads`` (0.5.23), or of vLLM's GetLoads by those names.

    A row without the number of waiting uncached tokens says nothing that feeding can use and is
    left out.

    Args:
        rows: The member ``loads`` of the answer.
        asked_s: When the question was sent.

    Returns:
        The loads by rank.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        return {}
    found: dict[int, RankLoad] = {}
    for row in rows:
        if not isinstance(row, Mapping) or "num_waiting_uncached_tokens" not in row:
            continue
        queues = row.get("disaggregation")
        pool = queues if isinstance(queues, Mapping) else {}
        found[_count(row, "dp_rank")] = RankLoad(
            asked_s,
            _count(row, "num_waiting_uncached_tokens"),
            _count(pool, "prefill_bootstrap_queue_reqs"),
            _count(row, "total_prefill_uncached_tokens"),
            _count(row, "total_prefill_busy_us"),
            _count(row, "num_used_tokens"),
            _count(row, "max_total_num_tokens"),
        )
    return found


def n_used_tokens(rows: object) -> int | None:
    """Sums the KV tokens in use over the rows of such an answer; ``None`` if it tells of none."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        return None
    told = [row for row in rows if isinstance(row, Mapping) and "num_used_tokens" in row]
    return sum(_count(row, "num_used_tokens") for row in told) if told else None


def _count(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    return value if type(value) is int and value > 0 else 0
