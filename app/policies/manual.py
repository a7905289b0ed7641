"""manual: a session stays at its worker."""

from __future__ import annotations

import random
import time
from hashlib import blake2b
from typing import TYPE_CHECKING

from app.policies.least_load import LeastLoad
from app.policies.session_table import Session, SessionTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.clock import Clock
    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker

ASSIGNMENT_MODES = ("random", "min_load", "min_group")


class Manual:
    """Keeps every routing key at the worker that it was given first.

    The key is what the client sends in ``x-tandem-routing-key`` or ``x-smg-routing-key``. It moves
    when its worker is no candidate, or has far more load than another one; then it stays where it
    moved. As in SMG 1.13 the worker before is remembered too: it is the first to be asked at the
    next move. Without a key each request is assigned anew and nothing is remembered.

    Args:
        assignment_mode: How a new key gets its worker: ``random``, ``min_load`` (fewest requests)
            or ``min_group`` (fewest keys).
        max_idle_s: A key that nobody used for so long is forgotten.
        max_keys: Keys remembered, about 250 bytes each; the one unused longest goes first.
        balance_abs_threshold: A key moves away from a worker that has so many requests more than
            the least loaded one ...
        balance_rel_threshold: ... and so many times as many.
        rng: Source of chance.
        now_s: The clock.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name = "manual"
    why = ""

    def __init__(
        self,
        *,
        assignment_mode: str = "random",
        max_idle_s: float = 14_400.0,
        max_keys: int = 100_000,
        balance_abs_threshold: int = 64,
        balance_rel_threshold: float = 1.5,
        rng: random.Random | None = None,
        now_s: Clock = time.monotonic,
    ) -> None:
        if assignment_mode not in ASSIGNMENT_MODES:
            raise ValueError(f"assignment_mode is one of {', '.join(ASSIGNMENT_MODES)}.")
        if balance_abs_threshold < 0 or balance_rel_threshold < 1:
            raise ValueError("balance_abs_threshold starts at 0, balance_rel_threshold at 1.")
        self._mode = assignment_mode
        self._balance_abs = balance_abs_threshold
        self._balance_rel = balance_rel_threshold
        self._rng = rng if rng is not None else random.Random()
        self._now_s = now_s
        self._least_load = LeastLoad()
        self._sessions = SessionTable(max_idle_s, max_keys)
        self._n_moved = 0

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the key's worker, or the one that it is given now."""
        if facts.routing_key is None:
            self.why = "no_key"
            return self._assign(candidates)
        key = _digest(facts.model, facts.routing_key)
        session = self._sessions.get(key, self._now_s())
        if session is None:
            self.why = "new_key"
            worker = self._assign(candidates)
        else:
            worker = self._kept(candidates, session)
        self._sessions.put(key, worker.id, self._now_s())
        return worker

    def forget(self, worker_id: str) -> None:
        """Nothing: keys of a removed worker move when they are used next, and say so then."""

    def state(self) -> dict[str, object]:
        """The keys remembered, and how many had to move."""
        return {"keys": len(self._sessions), "moved": self._n_moved}

    def _kept(self, candidates: Sequence[Worker], session: Session) -> Worker:
        lowest = min(worker.n_leases for worker in candidates)
        for worker_id in (session.worker_id, session.before_id):
            worker = next((one for one in candidates if one.id == worker_id), None)
            if worker is not None and not self._is_overloaded(worker, lowest):
                self.why = "kept" if worker_id == session.worker_id else "moved_back"
                self._n_moved += worker_id != session.worker_id
                return worker
        is_there = any(one.id == session.worker_id for one in candidates)
        self.why = "moved_overloaded" if is_there else "moved_gone"
        self._n_moved += 1
        return self._assign([one for one in candidates if not self._is_overloaded(one, lowest)])

    def _is_overloaded(self, worker: Worker, lowest: int) -> bool:
        n_leases = worker.n_leases
        return n_leases - lowest > self._balance_abs and n_leases > self._balance_rel * lowest

    def _assign(self, candidates: Sequence[Worker]) -> Worker:
        if self._mode == "min_load":
            return self._least_load.least_loaded(candidates)
        if self._mode == "min_group":
            fewest = min(self._sessions.n_keys(worker.id) for worker in candidates)
            candidates = [
                worker for worker in candidates if self._sessions.n_keys(worker.id) == fewest
            ]
        return candidates[int(self._rng.random() * len(candidates))]


def _digest(model: str | None, routing_key: bytes) -> bytes:
    """What is kept of a key: short, and nothing that a client may not want kept."""
    return blake2b(b"\0".join(((model or "").encode(), routing_key)), digest_size=16).digest()
