"""What a request is on its way into the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.scheduling.prompt_blocks import block_hashes
from app.scheduling.token_prompt import token_prompt
from app.scheduling.wait_queue import Waiting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.scheduling.queue_parts import Wish


def to_waiting(
    wish: Wish, now_s: float, places: NDArray[np.bool_], *, wants_tokens: bool
) -> Waiting:
    """Makes what waits of what is asked for.

    Args:
        wish: Who asks for what.
        now_s: The time.
        places: The ranks that may take it.
        wants_tokens: Somebody tells which tokens it has cached.
    """
    facts, standing = wish.ask.facts, wish.ask.standing
    prompt = token_prompt(wish.ask) if wants_tokens else None
    return Waiting(
        block_hashes(facts),
        facts.n_prompt_tokens if prompt is None else prompt.n_tokens,
        now_s,
        places,
        standing.key,
        standing.slo,
        tag=wish,
        prompt=prompt,
    )
