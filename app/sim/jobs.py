"""One sequence inside a simulated engine, and why an engine refuses one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.sim.config import FAKE_HOST
from app.sim.refusals import Refused
from app.sim.text import EOS_ID, Prompt, token_id


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One sequence: what was asked, what came out so far, how it ended.

    ``bell`` is shared by the jobs of one request and rings at every change.
    """

    rid: str
    room: int
    prompt: Prompt
    n_max: int
    bell: asyncio.Event
    has_room: bool = True
    """Its request named a bootstrap room."""
    host: str = FAKE_HOST
    port: int = 0
    rank: int = 0
    rank_wanted: int | None = None
    """The request's ``routed_dp_rank``."""
    n_samples: int = 1
    ignore_eos: bool = False
    stops: tuple[str, ...] = ()
    abort_after: int | None = None
    pieces: list[str] = field(default_factory=list)
    finish: dict[str, Any] | None = None
    failure: Refused | None = None
    n_cached: int = 0
    n_uncached: int = 0
    n_computed_before: int = 0
    """Prefill tokens that its rank had computed when it began to wait."""
    n_left: int = 0
    """Prompt tokens that no step has computed yet."""
    never_started: bool = False
    """The scheduler ended it in a queue; its answer has no counts then."""
    holds_kv: bool = False
    is_widowed: bool = False
    """Prefill only: decode went before the KV was sent."""
    task: asyncio.Task[None] | None = None
    on_over: Callable[[Job], None] | None = None

    @property
    def is_over(self) -> bool:
        """Finished, aborted or failed."""
        return self.finish is not None or self.failure is not None

    @property
    def ids(self) -> list[int]:
        """Output token ids so far."""
        return [token_id(piece) if piece else EOS_ID for piece in self.pieces]

    def emit(self, piece: str) -> None:
        """One more token of output."""
        self.pieces.append(piece)
        self.bell.set()
        if self.abort_after is not None and len(self.pieces) >= self.abort_after:
            self.end(abort_reason("Aborted"))

    def end(self, finish: dict[str, Any]) -> None:
        """The sequence finished; a second end changes nothing."""
        if not self.is_over:
            self.finish = finish
            self._leave()

    def fail(self, status: int, message: str, kind: str | None = None) -> None:
        """The sequence failed; a second end changes nothing."""
        if not self.is_over:
            self.failure = Refused(status, message, kind)
            self._leave()

    def _leave(self) -> None:
        self.bell.set()
        if self.on_over is not None:
            self.on_over(self)


def abort_reason(message: str) -> dict[str, Any]:
    """``finish_reason`` of an abort without an error status (seen with 0.5.23)."""
    return {"type": "abort", "message": message, "status_code": None, "err_type": None}
