"""How long a leg may keep a request waiting, and how long a request may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LegLimits:
    """Seconds; each ends in 504 of the leg, or in an error event once bytes were relayed.

    Where both legs start together, decode cannot speak before prefill has done its part, so its
    own clock starts with prefill's end.

    Attributes:
        prefill_s: From prefill's dispatch to its end, its wait at the worker included.
        first_token_s: From prefill's end (vLLM: from decode's dispatch) to decode's first token.
        gap_s: Longest silence of a stream after that.
        whole_s: Longest silence of a decode leg that answers in one piece: all of its work.
        total_s: Longest time for a request as a whole; ``None``: no limit.
    """

    prefill_s: float
    first_token_s: float
    gap_s: float
    whole_s: float
    total_s: float | None = None
