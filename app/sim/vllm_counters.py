"""What a simulated vLLM worker saw and did; tests assert on this, never on text alone."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.upstream.generated import vllm_engine_pb2 as pb


@dataclass(frozen=True, slots=True)
class VllmSeen:
    """One Generate call as it arrived."""

    request: pb.GenerateRequest
    metadata: Mapping[str, str]

    @property
    def request_id(self) -> str:
        """The caller's id."""
        return self.request.request_id

    @property
    def handoff_json(self) -> str | None:
        """The text for the KV connector; None if there was none."""
        has_it = self.request.HasField("kv_transfer_params_json")
        return self.request.kv_transfer_params_json if has_it else None

    @property
    def handoff(self) -> dict[str, Any] | None:
        """The same, read."""
        text = self.handoff_json
        return None if text is None else json.loads(text)


@dataclass(slots=True)
class VllmCounters:
    """Everything countable of one worker; survives a restart."""

    seen: deque[VllmSeen] = field(default_factory=deque)
    aborted: list[str] = field(default_factory=list)
    """Ids of running requests that an Abort ended."""
    abort_calls: list[list[str]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """Ids of calls that the client cancelled before their last message."""
    computed_prompt_tokens: int = 0
    """A request whose KV was loaded counts 1: the last position is always computed."""
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    n_steps: int = 0
    prefill_busy_us: int = 0
    n_transfers: int = 0
    """Decode: KV loads that worked, also if what came was garbage."""
    n_transferred_tokens: int = 0
    n_load_failures: int = 0
    n_orphaned_loads: int = 0
    """Decode: loads that ended, either way, after their request; till then they held its room."""
    n_asks_in_vain: int = 0
    """Mooncake prefill: asks of decode for which nothing came in time."""
    n_garbage_reads: int = 0
    """Prefill: reads of blocks that were free already."""
    n_releases: int = 0
    """Prefill: pinned blocks freed because decode said so."""
    n_expired: int = 0
    """Prefill: pinned blocks freed because nobody took them in time."""
    n_heartbeats: int = 0
    """Prefill: leases that a decode worker extended."""
    crashes: list[str] = field(default_factory=list)
    """Assertions of the engine that ended the process."""
    n_active: int = 0
    max_active: int = 0
    n_flushes: int = 0

    def note(self, seen: VllmSeen, n_kept: int) -> None:
        """One more Generate call."""
        self.seen.append(seen)
        while len(self.seen) > n_kept:
            self.seen.popleft()

    def enter(self) -> None:
        """One more Generate call is open."""
        self.n_active += 1
        self.max_active = max(self.max_active, self.n_active)

    def leave(self) -> None:
        """One Generate call ended."""
        self.n_active -= 1

    def as_json(self) -> dict[str, int]:
        """The body of ``GET /sim/counters``: lists by their length."""
        counted = {}
        for name in self.__slots__:
            value = getattr(self, name)
            counted[name] = value if isinstance(value, int) else len(value)
        return counted
