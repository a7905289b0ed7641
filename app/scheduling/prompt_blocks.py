"""A prompt as chained hashes of its blocks, for the prefix index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.protocol.facts import RequestFacts
    from app.scheduling.prefix_index import Hashes

BLOCK_BYTES = 512
BLOCK_TOKENS = 128
"""Of ids 4 bytes each; of text by the estimate of 4 characters a token."""
_WORD = (1 << 64) - 1


class HashedPrompt(bytes):
    """The beginning of a prompt whose blocks were hashed elsewhere, by the same key."""

    hashes: Hashes


def block_hashes(facts: RequestFacts) -> Hashes:
    """Hashes a prompt, each whole block over everything up to its end.

    Python's own hash serves: 64 bits, keyed by process. Processes that were forked from one have
    its key; nothing of it leaves them.
    """
    key = facts.prompt_key
    if isinstance(key, HashedPrompt):
        return key.hashes
    chained = hash((facts.model, facts.prefix_salt))
    found = []
    for end in range(BLOCK_BYTES, len(key) + 1, BLOCK_BYTES):
        chained = hash((chained, key[end - BLOCK_BYTES : end]))
        found.append(chained & _WORD)
    return np.array(found, np.uint64)
