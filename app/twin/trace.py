"""Request traces in the form in which the Mooncake traces were published.

One JSON object a line: ``timestamp`` (ms), ``input_length`` and ``output_length`` (tokens) and
``hash_ids``, one for each block of 512 tokens; equal ids are equal blocks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

BLOCK_TOKENS = 512


class BadTrace(ValueError):
    """The file is no trace; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request: when it comes (seconds after the first), how long it is (tokens), its blocks.

    Of a recorded one ``at_s`` is when the scheduler was asked and ``before_s`` what it had taken
    until then, which counts as time to first token, too. ``connect_s`` is how long it took from the
    grant until prefill was sent it: of requests that are granted together it decides which one the
    engine has first.
    """

    at_s: float
    n_prompt: int
    n_output: int
    blocks: tuple[int, ...]
    before_s: float = 0.0
    connect_s: float = 0.0


def read_trace(path: Path, first: int = 0, last: int | None = None, rate: float = 1.0) -> list[Row]:
    """Reads rows ``first`` to ``last`` (not included), played at ``rate`` times their speed.

    Raises:
        BadTrace: A line is not such an object, or there is none.
        OSError: The file cannot be read.
    """
    rows: list[Row] = []
    began_ms = 0.0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(islice(lines, first, last), first + 1):
            try:
                found = json.loads(line)
                at_ms = float(found["timestamp"])
                if not rows:
                    began_ms = at_ms
                row = Row(
                    (at_ms - began_ms) / 1000 / rate,
                    max(1, int(found["input_length"])),
                    max(1, int(found["output_length"])),
                    tuple(int(block) for block in found["hash_ids"]),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise BadTrace(f"{path}, line {number}: {error!r}") from None
            rows.append(row)
    if not rows:
        raise BadTrace(f"{path} has no row {first}")
    return rows


def token_ids(row: Row, shrink: int = 1) -> tuple[int, ...]:
    """Ids of ``n_prompt / shrink`` tokens; equal blocks are equal ids."""
    n_block = BLOCK_TOKENS // shrink
    ids = [3 + block * n_block + place for block in row.blocks for place in range(n_block)]
    return tuple(ids[: max(1, row.n_prompt // shrink)])
