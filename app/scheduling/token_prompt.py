"""A prompt as token ids, for engines that tell which tokens they have cached."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from app.workers.kv_events import TOKEN_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.scheduling.grant import Ask


class TokenPrompt:
    """The tokens, and their chained hashes for each size of block that is asked for.

    Args:
        key: The tokens, 4 bytes each, little-endian; of a long prompt its beginning.
        n_tokens: The whole prompt.
    """

    __slots__ = ("_chains", "_key", "n_tokens")

    def __init__(self, key: bytes, n_tokens: int) -> None:
        self._key = key
        self.n_tokens = n_tokens
        self._chains: dict[int, Sequence[int]] = {}

    def chains(self, block_size: int) -> Sequence[int]:
        """Returns the hash of each block that a cache can save, the first one first.

        An engine always computes the last token, so a block that ends with it saves nothing
        (vLLM 0.32 and SGLang 0.5.23 look up all but that token).
        """
        found = self._chains.get(block_size)
        if found is None:
            step = block_size * TOKEN_BYTES
            end = min(len(self._key), (self.n_tokens - 1) * TOKEN_BYTES)
            found = chain(root(block_size), self._key[: max(0, end)], step)
            self._chains[block_size] = found
        return found


class HashedTokens(TokenPrompt):
    """A prompt that another process has hashed, for the sizes of block that were told to it.

    Of another size nothing is known to be cached.

    Args:
        n_tokens: The whole prompt.
        chains: The hashes by size of block.
    """

    __slots__ = ()

    def __init__(self, n_tokens: int, chains: Mapping[int, Sequence[int]]) -> None:
        super().__init__(b"", n_tokens)
        self._chains.update(chains)


def root(block_size: int) -> int:
    """What the first block of a prompt follows; blocks of different sizes never compare."""
    return hash(("block", block_size))


def chain(before: int, ids: bytes, step: int) -> list[int]:
    """Hashes whole blocks, each over everything up to its end.

    Python's own hash, as for the prefix index: 64 bits, keyed per process.

    Args:
        before: The hash of the block before the first.
        ids: Tokens.
        step: Bytes of a block.
    """
    found = []
    for start in range(0, len(ids) - step + 1, step):
        before = hash((before, ids[start : start + step]))
        found.append(before)
    return found


def token_prompt(ask: Ask) -> TokenPrompt | None:
    """Returns the prompt of a request as tokens; None where they, or what else counts, are unknown.

    They are known where the gateway makes them itself (vLLM), and where a client sends them to
    SGLang without anything that makes its cache another one (adapter, salt).
    """
    if ask.prompt is not None:
        return ask.prompt
    facts = ask.facts
    if facts.batch is not None:
        return None
    if ask.token_ids is not None:
        return TokenPrompt(array("I", ask.token_ids).tobytes(), len(ask.token_ids))
    if facts.has_ids and not facts.prefix_salt:
        return TokenPrompt(facts.prompt_key, facts.n_prompt_tokens)
    return None
