"""The last requests of all pipes, for the one that was asked for them.

They come packed and piece by piece, through the brain, which only passes them on: taking them
apart is the asking pipe's work.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

from app.observability.flight_pieces import Pieces, n_whole, piece_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from app.observability.flight_recorder import FlightRecorder

    Said = Sequence[tuple[int, int, Any]]
    Gather = Callable[..., Awaitable[tuple[Any, Said]]]

SHOWN = "flights"
"""What pipes are asked for."""
MAX_A_PIECE = 2_000
"""Requests: some 400 KiB."""
MAX_BYTES = 128 * 1024 * 1024
"""Of all pipes together; older requests are left out."""


def show_piece(
    recorder: FlightRecorder,
    pid: int,
    before: Mapping[int, float] | None,
    since_s: float,
    n_most: int,
) -> bytes | None:
    """Returns the next piece of a process's requests; None: it has said all, or is a new one.

    Args:
        recorder: Where they are.
        pid: Which process this is.
        before: By process id when the oldest one ended that is known already; None: none is.
        since_s: Only those that ended since then.
        n_most: How many at most.
    """
    if before is not None and pid not in before:
        return None
    piece = piece_of(recorder, since_s, None if before is None else before[pid], n_most)
    return pickle.dumps(piece, pickle.HIGHEST_PROTOCOL)


async def gather_flights(gather: Gather, n_most: int | None, since_s: float = 0.0) -> list[Pieces]:
    """Returns the requests of each pipe; of one that does not answer what it said before.

    Args:
        gather: Asks all pipes.
        n_most: So many of all of them are enough; None: all.
        since_s: Those that ended since then.

    Raises:
        BrainAway: Nobody can be asked.
    """
    sources: dict[int, Pieces] = {}
    before: dict[int, float] | None = None
    n_bytes = 0
    n_a_piece = MAX_A_PIECE if n_most is None else min(n_most, MAX_A_PIECE)
    while before is None or before:
        _, said = await gather(SHOWN, before, since_s, n_a_piece)
        answers = {pid: packed for _, pid, packed in said if packed is not None}
        await asyncio.to_thread(_unpack, answers, sources)
        n_bytes += sum(map(len, answers.values()))
        before = {pid: sources[pid].oldest_s for pid in answers if sources[pid].has_more}
        is_enough = n_most is not None and n_whole(list(sources.values())) >= n_most
        if is_enough or n_bytes > MAX_BYTES:
            break
    return list(sources.values())


def _unpack(answers: Mapping[int, bytes], sources: dict[int, Pieces]) -> None:
    for pid, packed in answers.items():
        # As for the wire itself: both ends are one program.
        sources.setdefault(pid, Pieces()).add(pickle.loads(packed))  # noqa: S301
