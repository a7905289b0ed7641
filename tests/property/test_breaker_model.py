"""The breaker against a model that remembers everything and works its answers out anew."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.workers.breaker import TRIAL_PLACE_S, Breaker, Trial

WINDOW_S, OPEN_S = 30.0, 20.0


@dataclass
class Sent:
    """A request that was let through."""

    at_s: float
    trial: Trial | None
    n_openings: int
    """How often the breaker had opened when it was sent."""
    is_trial: bool


@dataclass
class Model:
    """What is to be known of a breaker, as a plain list of what happened."""

    threshold: int
    n_to_close: int
    share: float
    opened_s: float | None = None
    n_openings: int = 0
    answers: list[tuple[float, bool]] = field(default_factory=list)
    n_good_trials: int = 0
    running: list[Sent] = field(default_factory=list)

    def state(self, now_s: float) -> str:
        if self.opened_s is None:
            return "closed"
        return "open" if now_s - self.opened_s < OPEN_S else "half_open"

    def n_places(self, now_s: float) -> int:
        taken = [s for s in self.running if self.is_current(s)]
        return self.n_to_close - sum(now_s - s.at_s < TRIAL_PLACE_S for s in taken)

    def is_current(self, sent: Sent) -> bool:
        return sent.is_trial and sent.n_openings == self.n_openings and self.opened_s is not None

    def open(self, now_s: float) -> None:
        self.opened_s, self.n_openings = now_s, self.n_openings + 1
        self.answers, self.n_good_trials = [], 0

    def answered(self, sent: Sent, now_s: float, *, is_good: bool) -> None:
        is_current = self.is_current(sent)
        if self.opened_s is None:
            self.answers.append((now_s, is_good))
            if not is_good and self.is_too_much(now_s):
                self.open(now_s)
        elif is_current and not is_good:
            self.open(now_s)
        elif is_current:
            self.n_good_trials += 1
            if self.n_good_trials == self.n_to_close:
                self.opened_s, self.answers, self.n_good_trials = None, [], 0

    def is_too_much(self, now_s: float) -> bool:
        failed = [i for i, (_, is_good) in enumerate(self.answers) if not is_good]
        if len(failed) < self.threshold:
            return False
        first = failed[-self.threshold]
        since = self.answers[first:]
        is_recent = now_s - since[0][0] <= WINDOW_S
        return is_recent and self.threshold >= self.share * len(since)


class BreakerMachine(RuleBasedStateMachine):
    """Requests start, end in any way and in any order, and time passes."""

    @initialize(
        threshold=st.integers(1, 4),
        n_to_close=st.integers(1, 3),
        share=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    )
    def make(self, threshold: int, n_to_close: int, share: float) -> None:
        self.now_s = 1000.0
        self.model = Model(threshold, n_to_close, share)
        self.breaker = Breaker(
            lambda: self.now_s, threshold, n_to_close, OPEN_S, WINDOW_S, failure_share=share
        )

    @rule(by_s=st.sampled_from([0.5, 3.0, 10.0, 20.0, 31.0]))
    def wait(self, by_s: float) -> None:
        self.now_s += by_s

    @rule(n=st.integers(1, 5))
    def send(self, n: int) -> None:
        for _ in range(n):
            if not self.breaker.allows():
                return
            state = self.model.state(self.now_s)
            trial = self.breaker.start_trial()
            assert (trial is not None) is (state == "half_open")
            is_trial = state == "half_open"
            self.model.running.append(Sent(self.now_s, trial, self.model.n_openings, is_trial))

    @precondition(lambda self: self.model.running)
    @rule(which=st.integers(0, 30), how=st.sampled_from(["good", "bad", "bad", "neutral"]))
    def end(self, which: int, how: str) -> None:
        sent = self.model.running.pop(which % len(self.model.running))
        if how == "good":
            self.breaker.record_success(sent.trial)
        elif how == "bad":
            self.breaker.record_failure(sent.trial)
        if how != "neutral":
            self.model.answered(sent, self.now_s, is_good=how == "good")
        if sent.trial is not None:
            sent.trial.end()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        state = self.model.state(self.now_s)
        assert self.breaker.state == state
        allowed = state == "closed" or (
            state == "half_open" and self.model.n_places(self.now_s) > 0
        )
        assert self.breaker.allows() is allowed


TestBreaker = BreakerMachine.TestCase
