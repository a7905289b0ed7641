"""What the flight recorder keeps of a prompt: which blocks of it equal those of other prompts."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.protocol.facts import RequestFacts

SKETCH_TOKENS = 512
"""Tokens of a block, as the Mooncake traces have them."""
_BLOCK_BYTES = 4 * SKETCH_TOKENS
_WORD = (1 << 64) - 1
_ONE = Struct("<Q")


def sketch(facts: RequestFacts) -> bytes:
    """Hashes a prompt: eight bytes for each block, each over everything up to its end.

    The last block may be a part of one. Python's own hash serves, 64 bits and keyed by process:
    what leaves the process are numbers in the order in which blocks were first seen.
    """
    key = facts.prompt_key
    chained = hash((facts.model, facts.prefix_salt))
    if len(key) <= _BLOCK_BYTES:
        return _ONE.pack(hash((chained, key)) & _WORD)
    found = []
    for start in range(0, len(key), _BLOCK_BYTES):
        chained = hash((chained, key[start : start + _BLOCK_BYTES]))
        found.append(chained & _WORD)
    return Struct(f"<{len(found)}Q").pack(*found)
