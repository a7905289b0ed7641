"""What the routing benchmark plays: fleets, traces and troubles, each under a name."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from app.twin.fleet import FleetShape
from app.twin.trace import BLOCK_TOKENS, Row, read_trace

_BURST_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fleet and what happens to it.

    Attributes:
        about: What it is for.
        rate: Of the trace's own speed; for short prompts the load, 1 = all that prefill can do.
        order: The engines' own order, a value of SGLang's ``--schedule-policy``.
        lead_s: From arrival until a prefill worker can start a request.
        transfer_s_per_token: KV transfer.
        n_pairs: Prefill workers, and as many decode workers.
        first_share: Speed of the first prefill worker, 1 = as the others.
        dies_at: When the first prefill worker's process is killed, as a share of the trace.
        has_burst: The middle fifth of the requests comes five times as fast.
        is_short: The trace of short prompts.
        decode_share: KV cache of all decode workers, as a share of the most they would hold.
    """

    about: str
    rate: float = 0.85
    order: str = "fcfs"
    lead_s: float = 0.15
    transfer_s_per_token: float = 1e-5
    n_pairs: int = 4
    first_share: float = 1.0
    dies_at: float | None = None
    has_burst: bool = False
    is_short: bool = False
    decode_share: float | None = None

    def shape(self, tokens_per_s: float, decode_kv_tokens: int | None) -> FleetShape:
        """The same fleet for the twin."""
        shape = FleetShape(
            n_prefill=self.n_pairs,
            n_decode=self.n_pairs,
            tokens_per_s=tokens_per_s,
            slow=(self.first_share,) if self.first_share != 1 else (),
            lead_s=self.lead_s,
            transfer_s_per_token=self.transfer_s_per_token,
        )
        if decode_kv_tokens is None:
            return shape
        return replace(shape, decode_kv_tokens=decode_kv_tokens)


CASES = {
    "base": Case(
        about="the conversation trace at 0.85 of its rate, engines first come first served"
    ),
    "spf": Case(about="the same, engines shortest prefill first", order="shortest-prefill-first"),
    "near": Case(
        about="lead 0.05 s, transfer 2e-6 s a token", lead_s=0.05, transfer_s_per_token=2e-6
    ),
    "far": Case(about="lead 0.3 s, transfer 2e-5 s a token", lead_s=0.3, transfer_s_per_token=2e-5),
    "light": Case(about="0.3 of the trace's rate", rate=0.3),
    "heavy": Case(about="1.2 times the trace's rate, more than prefill can do", rate=1.2),
    "slow": Case(
        about="one prefill worker at half speed, 0.7 of the rate", rate=0.7, first_share=0.5
    ),
    "dying": Case(
        about="one prefill worker is killed in the middle, 0.6 of the rate", rate=0.6, dies_at=0.5
    ),
    "burst": Case(
        about="a fifth of the requests five times as fast, 0.6 of the rate",
        rate=0.6,
        has_burst=True,
    ),
    "decode": Case(about="KV cache of decode at 60 % of demand", decode_share=0.6),
    "short": Case(
        about="short prompts (Azure), two pairs at 0.79 load",
        rate=0.79,
        lead_s=0.08,
        n_pairs=2,
        is_short=True,
    ),
}


def rows_of(
    case: Case, asked_rows: str, trace: Path, short_trace: Path | None, tokens_per_s: float
) -> list[Row]:
    """The requests of a case.

    Args:
        case: The case.
        asked_rows: ``FIRST:LAST``.
        trace: The conversation trace.
        short_trace: The trace of short prompts, a CSV file.
        tokens_per_s: Of one prefill worker.

    Raises:
        BadTrace: The file is no trace.
        OSError: It cannot be read.
        ValueError: The case needs the trace of short prompts, and there is none.
    """
    first, last = map(int, asked_rows.split(":"))
    if not case.is_short:
        rows = read_trace(trace, first, last, case.rate)
        return _with_burst(rows) if case.has_burst else rows
    if short_trace is None:
        raise ValueError("this case needs --short-trace")
    rows = list(itertools.islice(_short_rows(short_trace), first, last))
    began_s = rows[0].at_s
    demand = sum(row.n_prompt for row in rows) / (rows[-1].at_s - began_s)
    rate = case.rate * case.n_pairs * tokens_per_s / demand
    return [replace(row, at_s=(row.at_s - began_s) / rate) for row in rows]


def decode_kv_tokens(case: Case, rows: list[Row], step_s: float) -> int | None:
    """KV cache of one decode worker: a share of what would be held at the busiest moment.

    A request is taken to hold its prompt and answer for as long as its answer takes.
    """
    if case.decode_share is None:
        return None
    changes: list[tuple[float, int]] = []
    for row in rows:
        n_tokens = row.n_prompt + row.n_output
        changes += [(row.at_s, n_tokens), (row.at_s + row.n_output * step_s, -n_tokens)]
    held = itertools.accumulate(n_tokens for _, n_tokens in sorted(changes))
    return int(case.decode_share * max(held) / case.n_pairs)


def _with_burst(rows: list[Row]) -> list[Row]:
    first = int(len(rows) * (0.5 - _BURST_SHARE / 2))
    last = int(len(rows) * (0.5 + _BURST_SHARE / 2))
    saved_s = (rows[last].at_s - rows[first].at_s) * 0.8
    burst = [
        replace(row, at_s=rows[first].at_s + (row.at_s - rows[first].at_s) * 0.2)
        for row in rows[first:last]
    ]
    return rows[:first] + burst + [replace(row, at_s=row.at_s - saved_s) for row in rows[last:]]


def _short_rows(path: Path) -> Iterator[Row]:
    """Rows of ``TIMESTAMP,ContextTokens,GeneratedTokens``; no two prompts begin alike."""
    block = 0
    with path.open(newline="") as lines:
        for line in csv.DictReader(lines):
            n_prompt = max(1, int(line["ContextTokens"]))
            n_blocks = -(-n_prompt // BLOCK_TOKENS)
            # Seven digits of a second are one more than fromisoformat takes before Python 3.11.
            at_s = datetime.fromisoformat(line["TIMESTAMP"][:26]).timestamp()
            blocks = tuple(range(block, block + n_blocks))
            yield Row(at_s, n_prompt, max(1, int(line["GeneratedTokens"])), blocks)
            block += n_blocks
