"""What one prefill rank still has to start, and how fast it works: counters, credit, estimates.

An engine must never run dry, and what it was given too early can no longer be put in a better
order. Both are decided by the uncached tokens that it has *not started*: those that its last
snapshot counts as waiting, less what it has started since, and those that it was sent too
recently for the snapshot to contain.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.workers.rank_load import RankLoad

WINDOW_STEPS = 0.25
"""What is not started is no more than that and what is started until more can arrive."""
AHEAD_STEPS = 1.0
"""For so much longer than the lead is a rank to have work. Half a step is better by 4 % in virtual
time, and lets ranks run dry where machines and networks stutter."""
PACE_LEADS = 1 / 8
"""What arrives together is computed together: the shortest of it as late as the longest. How far
apart requests have to be sent for that goes with how long they are on their way."""
_MIN_BUSY_US = 200_000
_RATE_HALF_LIFE_US = 10_000_000
_RATE_TRUST_US = 3_000_000
"""Work that makes a rate worth believing. The counters jump by whole steps: tokens when a step
ends, its time when it is launched."""
_CLOCK_TRUST_S = 1.0
_CLOCK_KEEP = 0.9
_LEAD_SAMPLES = 64
_MIN_LEAD_S, _MAX_LEAD_S = 0.005, 2.0


@dataclass(slots=True, eq=False)
class Sent:
    """One request that was sent to the rank: when, and its uncached tokens as we count them."""

    sent_s: float
    n_tokens: float
    is_credit: bool = True


class RankLedger:
    """The account of one rank.

    Args:
        step_tokens: Most tokens of one step of the engine (its prefill chunk).
        rate_tokens_per_s: Believed until the engine's counters say better.
        lead_s: The same for the time from dispatch until the engine can start a request.
        stale_s: An older snapshot says nothing about now.
    """

    def __init__(
        self,
        step_tokens: int = 8192,
        rate_tokens_per_s: float = 10_000.0,
        lead_s: float = 0.05,
        stale_s: float = 1.0,
    ) -> None:
        self.step_tokens = step_tokens
        self.rate_tokens_per_s = rate_tokens_per_s
        self.lead_s = lead_s
        self._stale_s = stale_s
        self.n_sent_tokens = 0.0
        """By our count, since the engine was first seen."""
        self.snapshot: RankLoad | None = None
        self._base: RankLoad | None = None
        self._rate_us = 0.0
        self._rate_tokens = 0.0
        self._credits: deque[Sent] = deque()
        self.credit_tokens = 0.0
        self.paced_until_s = 0.0
        """Nothing more is sent before: what was sent last is to be in a step of its own."""
        self._unfinished: dict[Sent, None] = {}
        self._unfinished_tokens = 0.0
        self._ends: deque[tuple[float, float]] = deque(maxlen=_LEAD_SAMPLES)
        self.backlog = (0.0, 0.0)
        """Uncached tokens not finished, and when that was so."""
        self._has_counters = False
        self._worked_since_s = 0.0
        self._first_sent_s = math.inf
        self._own_tokens = 0.0

    def is_fresh(self, now_s: float) -> bool:
        """Whether the last snapshot still says something.

        A rank that had nothing of ours was not asked; its word counts from when it got something.
        One that never spoke is waited for once.
        """
        return now_s <= self.fresh_until_s

    @property
    def fresh_until_s(self) -> float:
        """When the last snapshot says nothing any more, if there comes no other."""
        if self.snapshot is None:
            return self._first_sent_s + self._stale_s
        if not self._unfinished:
            return math.inf
        return max(self.snapshot.asked_s, self._worked_since_s) + self._stale_s

    @property
    def knows_rate(self) -> bool:
        """Whether the rate was learned; before that it is a guess."""
        return self._rate_us >= _RATE_TRUST_US and self._rate_tokens > 0

    @property
    def window_tokens(self) -> float:
        """The rank is fed while it has not started less than this.

        What it starts until the next request can arrive, and a quarter of a step.
        """
        return self.lead_s * self.rate_tokens_per_s + self.step_tokens * WINDOW_STEPS

    @property
    def ahead_tokens(self) -> float:
        """And while it has not finished less than this: two steps in flight are long enough."""
        return self.lead_s * self.rate_tokens_per_s + self.step_tokens * AHEAD_STEPS

    def unstarted_tokens(self, now_s: float) -> float:
        """Uncached tokens that the rank has but has not started."""
        snapshot = self.snapshot
        if snapshot is None:
            return self.credit_tokens
        started = (now_s - snapshot.asked_s) * self.rate_tokens_per_s
        return max(0.0, snapshot.n_waiting_tokens - started) + self.credit_tokens

    def backlog_tokens(self, now_s: float) -> float:
        """Uncached tokens that the rank has not finished: what a new request waits for."""
        n_tokens, at_s = self.backlog
        worked = (now_s - at_s) * self.rate_tokens_per_s
        return max(0.0, n_tokens - worked, self.unstarted_tokens(now_s))

    def send(self, n_tokens: float, now_s: float) -> Sent:
        """Notes a request that is sent now."""
        backlog = self.backlog_tokens(now_s)
        self._first_sent_s = min(self._first_sent_s, now_s)
        if not self._unfinished:
            self._worked_since_s = now_s + self.lead_s
        sent = Sent(now_s, n_tokens)
        # A shorter one would be over before the next: the rank would run dry.
        pace_s = self.lead_s * PACE_LEADS
        if n_tokens >= pace_s * self.rate_tokens_per_s:
            self.paced_until_s = now_s + pace_s
        self._credits.append(sent)
        self.credit_tokens += n_tokens
        self._unfinished[sent] = None
        self._unfinished_tokens += n_tokens
        self.n_sent_tokens += n_tokens
        self.backlog = (backlog + n_tokens, now_s)
        return sent

    def finish(self, sent: Sent, now_s: float, *, is_ok: bool) -> None:
        """Notes that the rank no longer has a request; again is harmless.

        The shortest of many times from dispatch to end, less the request's own work, is what
        remains when nothing else was in the way: the lead.

        Args:
            sent: What :meth:`send` gave.
            now_s: The time; for a good one that of decode's first event.
            is_ok: Prefill ran to its end.
        """
        if sent not in self._unfinished:
            return
        del self._unfinished[sent]
        self._unfinished_tokens = max(0.0, self._unfinished_tokens - sent.n_tokens)
        if is_ok:
            self._ends.append((now_s - sent.sent_s, sent.n_tokens))
            rate = self.rate_tokens_per_s
            lead_s = min(elapsed_s - n_tokens / rate for elapsed_s, n_tokens in self._ends)
            self.lead_s = min(_MAX_LEAD_S, max(_MIN_LEAD_S, lead_s))
            self._own_tokens += sent.n_tokens
        if not self._has_counters:
            self._learn_rate_by_clock(now_s)
        if sent.is_credit:
            self._credits.remove(sent)
            self._spend(sent)
        if not self._unfinished:
            self.paced_until_s = 0.0
        # Never more than what it was sent and has not answered.
        self.backlog = (min(self.backlog_tokens(now_s), self._unfinished_tokens), now_s)

    def take(self, snapshot: RankLoad) -> None:
        """Takes a snapshot; one that was asked for before the last is passed over."""
        last = self.snapshot
        if last is not None and snapshot.asked_s < last.asked_s:
            return
        self.snapshot = snapshot
        self._learn_rate(snapshot)
        # Those that are still on their way into the engine's queue are the latest ones.
        arrived_s = snapshot.asked_s - self.lead_s
        while len(self._credits) > snapshot.n_bootstrapping:
            if self._credits[0].sent_s >= arrived_s:
                break
            self._spend(self._credits.popleft())

    def _spend(self, sent: Sent) -> None:
        sent.is_credit = False
        # The sum of no credits is 0 whatever rounding left.
        self.credit_tokens = self.credit_tokens - sent.n_tokens if self._credits else 0.0

    def _learn_rate_by_clock(self, now_s: float) -> None:
        """For engines without counters: what was finished while something was unfinished."""
        worked_s = now_s - self._worked_since_s
        if worked_s > 0 and (worked_s >= _CLOCK_TRUST_S or not self._unfinished):
            self._rate_us = self._rate_us * _CLOCK_KEEP + worked_s * 1e6
            self._rate_tokens = self._rate_tokens * _CLOCK_KEEP + self._own_tokens
            self._worked_since_s, self._own_tokens = now_s, 0.0
            if self._rate_us >= _RATE_TRUST_US and self._rate_tokens:
                self.rate_tokens_per_s = self._rate_tokens / self._rate_us * 1e6

    def _learn_rate(self, snapshot: RankLoad) -> None:
        if not snapshot.busy_us:
            return
        if not self._has_counters:
            self._has_counters = True
            self._rate_us = self._rate_tokens = 0.0
        base = self._base
        if base is None or snapshot.n_total_tokens < base.n_total_tokens:
            # The first one, or the engine was started anew.
            self._base = snapshot
            return
        busy_us = snapshot.busy_us - base.busy_us
        if busy_us < _MIN_BUSY_US:
            return
        keep = 0.5 ** (busy_us / _RATE_HALF_LIFE_US)
        self._rate_us = self._rate_us * keep + busy_us
        self._rate_tokens = self._rate_tokens * keep + snapshot.n_total_tokens - base.n_total_tokens
        self._base = snapshot
        if self._rate_us >= _RATE_TRUST_US and self._rate_tokens:
            self.rate_tokens_per_s = self._rate_tokens / self._rate_us * 1e6
