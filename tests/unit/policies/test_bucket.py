"""bucket: ranges of lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from app.policies.bucket import Bucket
from app.policies.prompt_lengths import PromptLengths
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.workers.worker import Role, Worker, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x","model":"m"}')


def workers(n: int) -> list[Worker]:
    return [Worker(WorkerSpec(f"http://w{number}", Role.PREFILL)) for number in range(n)]


def sized(n_tokens: int, model: str = "m") -> RequestFacts:
    return replace(FACTS, n_prompt_tokens=n_tokens, model=model)


class Rig:
    """A policy that has seen as much work in prompts of 100 tokens as in those of 1,000."""

    def __init__(self) -> None:
        self.s = 0.0
        self.policy = Bucket(now_s=lambda: self.s)
        for worker in (both := workers(2)):
            worker.n_leases = 0
        for _ in range(10):
            for n_tokens in (*[100] * 10, 1000):
                self.policy.choose(both, sized(n_tokens))
        self.s = 1000.0

    def choose(self, fleet: list[Worker], n_tokens: int) -> tuple[str, str]:
        """The worker, and why."""
        return self.policy.choose(fleet, sized(n_tokens)).host, self.policy.why


def test_short_and_long_prompts_part() -> None:
    """Ten short ones are as much work as one long one, so each kind has half of the workers."""
    rig, fleet = Rig(), workers(4)
    for worker in fleet:
        worker.n_leases = 1
    assert ["w2", "w3"] == [rig.choose(fleet, 1000)[0] for _ in range(2)]
    assert {"w0": 5, "w1": 5} == Counter(rig.choose(fleet, 100)[0] for _ in range(10))
    assert ["w2", "w3"] == [rig.choose(fleet, 1000)[0] for _ in range(2)]
    assert [("w0", "bucket"), ("w3", "bucket")] == [rig.choose(fleet, n) for n in (7, 5000)]
    assert rig.policy.state() == {"bounds": {"m": [100, 100, 1000]}}


def test_ranges_lie_over_whoever_is_there() -> None:
    """With a worker less there is no range without one."""
    rig, fleet = Rig(), workers(4)
    rest = [fleet[0], fleet[2]]
    assert [("w0", "bucket"), ("w2", "bucket")] == [rig.choose(rest, n) for n in (100, 1000)]
    assert ["w1", "w1"] == [rig.choose(fleet[1:2], n)[0] for n in (100, 1000)]


def test_short_prompts_leave_a_busy_range_for_an_idle_worker() -> None:
    """Long ones only for a worker that would still have much less with them."""
    rig, fleet = Rig(), workers(2)
    for worker in fleet:
        worker.n_leases = 1
    for _ in range(3):
        rig.choose(fleet[:1], 100)
    assert rig.choose(fleet, 100) == ("w1", "uneven_load")
    rig.choose(fleet[1:], 1400)
    assert rig.choose(fleet, 1000) == ("w1", "bucket")
    assert rig.choose(fleet, 1000) == ("w0", "uneven_load")


def test_what_was_sent_fades_and_an_idle_worker_has_nothing() -> None:
    """After five time constants, or at once when its leases are back."""
    rig, fleet = Rig(), workers(2)
    for worker in fleet:
        worker.n_leases = 1
    for _ in range(9):
        rig.choose(fleet[:1], 90)
    assert rig.choose(fleet, 90) == ("w1", "uneven_load")
    rig.s += 25.0
    assert rig.choose(fleet, 90) == ("w0", "bucket")
    for _ in range(9):
        rig.choose(fleet[:1], 90)
    fleet[0].n_leases = 0
    assert rig.choose(fleet, 90) == ("w0", "bucket")
    rig.policy.forget(fleet[0].id)


def test_nothing_is_known_at_first() -> None:
    """Everyone takes everything, the least busy first; idle ones take turns."""
    policy, fleet = Bucket(now_s=lambda: 0.0), workers(3)
    assert ["w0", "w1", "w2", "w0"] == [policy.choose(fleet, sized(9)).host for _ in range(4)]
    assert policy.why == "least_busy"


def test_equal_lengths_are_everybodys() -> None:
    """A length that all prompts have is no reason to leave workers idle."""
    policy, fleet = Bucket(now_s=lambda: 0.0), workers(4)
    taken = Counter(policy.choose(fleet, sized(500)).host for _ in range(80))
    assert set(taken.values()) == {20}


def test_models_have_their_own_lengths() -> None:
    """What is long for one is short for the other."""
    rig, fleet = Rig(), workers(2)
    for number in range(40):
        rig.policy.choose(fleet, sized(1000 if number % 10 else 9000, "big"))
    rig.s += 10.0
    assert rig.policy.choose(fleet, sized(1000, "big")).host == "w0"
    assert rig.policy.choose(fleet, sized(1000, "m")).host == "w1"


def test_shares_of_work() -> None:
    """In tokens, not in prompts; worked out anew once an interval."""
    lengths = PromptLengths(100, 5.0)
    for n_tokens in [10] * 15:
        lengths.add(n_tokens)
    assert lengths.span(10, 0.0) == (0.0, 1.0)
    lengths.add(150)
    assert [(0.0, 0.5), (0.5, 1.0), (0.5, 0.5)] == [lengths.span(n, 0.0) for n in (10, 150, 90)]
    for _ in range(84):
        lengths.add(150)
    assert lengths.span(150, 4.9) == (0.5, 1.0)
    below, _ = lengths.span(150, 5.0)
    assert below < 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        {"adjust_interval_s": 0.0},
        {"balance_abs_threshold": -1},
        {"balance_rel_threshold": 0.5},
    ],
)
def test_parameters_have_ranges(wrong: dict[str, float]) -> None:
    """A ValueError outside of them."""
    with pytest.raises(ValueError, match=r"\.$"):
        Bucket(**wrong)  # type: ignore[arg-type]
