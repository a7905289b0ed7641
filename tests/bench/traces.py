"""Prompts of text that have the sizes and the common beginnings of a trace's rows."""

from __future__ import annotations

import random

from app.twin.trace import BLOCK_TOKENS, Row


def prompt(row: Row, shrink: int) -> str:
    """Text of ``n_prompt / shrink`` tokens of four characters; equal blocks give equal text.

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
