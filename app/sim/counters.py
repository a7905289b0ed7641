"""What a simulated worker saw and did; tests assert on this, never on text alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Seen:
    """One generation request as it arrived."""

    route: str
    body: dict[str, Any]
    headers: dict[str, str]
    rid: Any
    room: Any


@dataclass(slots=True)
class Counters:
    """Everything countable of one worker; survives a restart of its listener."""

    seen: deque[Seen] = field(default_factory=deque)
    aborted: list[str] = field(default_factory=list)
    """Ids of requests that an ``/abort_request`` ended or hit."""
    abort_calls: list[dict[str, Any]] = field(default_factory=list)
    computed_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    n_transfers: int = 0
    n_steps: int = 0
    prefill_busy_us: int = 0
    disconnects_noticed: int = 0
    n_active: int = 0
    max_active: int = 0
    longest_room_wait_s: float = 0.0
    """Decode: the longest that a request waited for free KV cache."""
    n_flushes: int = 0

    def enter(self) -> None:
        """One more generation request is open."""
        self.n_active += 1
        self.max_active = max(self.max_active, self.n_active)

    def leave(self) -> None:
        """One generation request ended."""
        self.n_active -= 1

    def as_json(self) -> dict[str, Any]:
        """The body of ``GET /sim/counters``."""
        plain = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("seen", "aborted", "abort_calls")
        }
        return {
            **plain,
            "aborted": list(self.aborted),
            "abort_calls": list(self.abort_calls),
            "n_seen": len(self.seen),
            "seen": [
                {
                    "route": s.route,
                    "body": s.body,
                    "headers": s.headers,
                    "rid": s.rid,
                    "room": s.room,
                }
                for s in self.seen
            ],
        }
