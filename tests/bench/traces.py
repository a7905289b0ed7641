"""Request traces, and prompts that have the sizes and the common beginnings of a trace's rows.

A row is ``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}``
with one id for each block of 512 tokens: the form in which the Mooncake traces were published.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

BLOCK_TOKENS = 512
CHARS_PER_TOKEN = 4
"""As the simulated model's tokenizer cuts words of three letters, and as the gateways estimate."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request: when it comes (seconds from the first), and how long it is, in tokens."""

    at_s: float
    n_prompt: int
    n_output: int
    blocks: tuple[int, ...]


def read_trace(path: Path, first: int, last: int, rate: float) -> list[Row]:
    """Reads rows ``first`` to ``last`` (not included), played at ``rate`` times their speed."""
    with path.open() as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if first <= number < last]
    began_ms = rows[0]["timestamp"]
    return [
        Row(
            (row["timestamp"] - began_ms) / 1000 / rate,
            row["input_length"],
            row["output_length"],
            tuple(row["hash_ids"]),
        )
        for row in rows
    ]


def prompt(row: Row, shrink: int) -> str:
    """Text of ``n_prompt / shrink`` tokens; equal blocks give equal text.

    A smaller fleet of the same behaviour: with all rates divided by ``shrink`` as well, times
    stay as they are, and neither tokenizing nor parsing takes the time that is to be measured.
    """
    n_block_words = BLOCK_TOKENS // shrink
    n_words = max(1, row.n_prompt // shrink)
    words: list[str] = []
    for block in row.blocks:
        letters = random.Random(block)
        words += [
            "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=3))
            for _ in range(n_block_words)
        ]
    return " ".join(words[:n_words])
