"""The recorded requests as JSON lines: all that is known of each, or a trace to be replayed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import orjson

from app.observability.flight_recorder import Flight
from app.observability.phases import TIMES

BLOCK_TOKENS = 512
"""Of a Mooncake trace."""


class BlockIds:
    """Numbers for blocks: equal blocks have equal ones, and nothing else is told of a prompt.

    They are keyed digests of 48 bits under a key of their own, so they can neither be guessed from
    a prompt nor joined with those of another object of this class.
    """

    def __init__(self) -> None:
        self._key = os.urandom(16)

    def __call__(self, block: int) -> int:
        """Returns the number of a block."""
        found = blake2b(block.to_bytes(8, "little"), key=self._key, digest_size=6)
        return int.from_bytes(found.digest(), "little")


def as_lines(
    flights: Iterable[Flight], unix_offset_s: float, block_ids: BlockIds | None = None
) -> Iterator[bytes]:
    """Yields one object a request.

    Args:
        flights: The requests.
        unix_offset_s: What to add to a time of the gateway's clock to have the time of day.
        block_ids: Who numbers their blocks; None: somebody that numbers only these.
    """
    number = BlockIds() if block_ids is None else block_ids
    for flight in flights:
        fields: dict[str, object] = {
            "request_id": flight.request_id,
            "arrived_unix_s": round(flight.arrived_s + unix_offset_s, 6),
        }
        # Seconds after the arrival; what it did not come to is left out.
        for name, at_s in zip(TIMES[1:], flight.times[1:], strict=True):
            if at_s:
                fields[name] = round(at_s - flight.arrived_s, 6)
        if flight.expected_s:
            fields["expected_prefill_s"] = round(flight.expected_s, 6)
            fields["candidates"] = {url: round(one_s, 6) for url, one_s in flight.candidates}
        fields |= {
            name: count
            for name in ("n_prompt", "n_cached", "n_completion")
            if (count := getattr(flight, name)) >= 0
        }
        fields["n_estimated"] = flight.n_estimated
        fields |= flight.facts()
        fields["hash_ids"] = [number(block) for block in flight.blocks]
        yield orjson.dumps(fields) + b"\n"


def as_trace(flights: Iterable[Flight]) -> Iterator[bytes]:
    """Yields a trace in the Mooncake form, which ``tandem replay`` plays.

    Requests come in the order of their arrival; those that a pair was never granted for are left
    out. Lengths are the engine's where it told them. Ids are numbers in the order in which blocks
    were first seen: equal ids are equal blocks, and nothing else is told of a prompt.
    """
    granted = sorted((f for f in flights if f.prefill), key=lambda flight: flight.arrived_s)
    ids: dict[int, int] = {}
    n_lone = 0
    for flight in granted:
        n_prompt = max(1, flight.n_prompt if flight.n_prompt >= 0 else flight.n_estimated)
        n_blocks = -(-n_prompt // BLOCK_TOKENS)
        hash_ids = [ids.setdefault(block, len(ids)) for block in flight.blocks[:n_blocks]]
        # The engine has cut the prompt into more tokens than were expected: nobody shares those.
        for _ in range(n_blocks - len(hash_ids)):
            n_lone += 1
            hash_ids.append(ids.setdefault(-n_lone, len(ids)))
        row = {
            "timestamp": round((flight.arrived_s - granted[0].arrived_s) * 1000, 3),
            "input_length": n_prompt,
            "output_length": max(1, flight.n_completion),
            "hash_ids": hash_ids,
        }
        yield orjson.dumps(row) + b"\n"
