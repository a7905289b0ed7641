"""The place of a policy, its shadow, and the reason that every grant carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from app.policies.cache_aware import CacheAware
from app.policies.catalog import POLICIES
from app.policies.least_load import LeastLoad
from app.policies.parameter import ParameterFault
from app.policies.round_robin import RoundRobin
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.scheduling.policy_slot import PolicySlot, Shadow
from app.scheduling.reason import Alone, Choice, Queued, Reason
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.settings import Settings
from app.workers.worker import Role, Worker, WorkerSpec

FACTS = peek(Route.GENERATE, b'{"text":"x"}')


def workers(n: int) -> list[Worker]:
    return [Worker(WorkerSpec(f"http://w{number}", Role.PREFILL)) for number in range(n)]


def test_a_choice_is_noted() -> None:
    """Who, by which rule, of how many, and with how many requests."""
    fleet, slot = workers(3), PolicySlot(CacheAware())
    fleet[0].n_leases = fleet[1].n_leases = 4
    assert slot.choose(fleet, FACTS) is fleet[2]
    assert slot.last == Choice("http://w2", "cache_aware", "no_prefix", 3, 0)
    fleet[2].n_leases = 5
    slot.choose(fleet, FACTS)
    assert slot.last == Choice("http://w2", "cache_aware", "prefix", 3, 5)


def test_a_shadow_is_counted_and_changes_nothing() -> None:
    """The real one chooses as without it, and its memory is its own."""
    fleet = workers(4)
    watched, alone = PolicySlot(RoundRobin()), PolicySlot(RoundRobin())
    watched.shadow = shadow = Shadow(RoundRobin())
    shadow.policy.choose(fleet, FACTS)
    hosts = [[slot.choose(fleet, FACTS).host for _ in range(6)] for slot in (watched, alone)]
    assert hosts[0] == hosts[1]
    assert (shadow.n_compared, shadow.n_agreed) == (6, 0)
    assert watched.last.shadow == "http://w2"
    assert shadow.chosen == dict(zip((w.id for w in fleet), (1, 2, 2, 1), strict=True))
    watched.forget(fleet[0].id)
    assert fleet[0].id not in shadow.chosen
    watched.shadow = Shadow(LeastLoad())
    assert watched.choose(fleet[:1], FACTS) is fleet[0]
    assert (watched.shadow.n_compared, watched.shadow.n_agreed) == (1, 1)


class Broken(LeastLoad):
    """A policy with a defect."""

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Fails."""
        raise KeyError("defect")


def test_a_broken_shadow_is_taken_out_and_told() -> None:
    """The request goes on."""
    told: list[tuple[str, Exception]] = []
    slot = PolicySlot(LeastLoad(), on_trouble=lambda name, error: told.append((name, error)))
    slot.shadow = Shadow(Broken())
    fleet = workers(2)
    assert slot.choose(fleet, FACTS) in fleet
    assert getattr(slot, "shadow", slot) is None
    ((name, error),) = told
    assert (name, type(error)) == ("least_load", KeyError)


def running(slots: dict[Role, PolicySlot]) -> RunningPolicies:
    named = {role: NamedPolicy(slot.policy.name, {}) for role, slot in slots.items()}
    return RunningPolicies(
        slots, named, {"cache_threshold": 0.7}, lambda: 0.0, on_trouble=lambda *_: None
    )


def test_policies_are_changed_by_name() -> None:
    """What is not given is as in the settings; the same again keeps what is known."""
    slot = PolicySlot(LeastLoad())
    policies = running({Role.PREFILL: slot})
    named = policies.check("cache_aware", {"balance_abs_threshold": 3})
    assert named.parameters == {
        "cache_threshold": 0.7,
        "balance_abs_threshold": 3,
        "balance_rel_threshold": 1.5,
    }
    assert policies.change(Role.PREFILL, named)
    first = slot.policy
    assert (first.name, policies.named(Role.PREFILL)) == ("cache_aware", named)
    again = policies.check("cache_aware", {}, named)
    assert not policies.change(Role.PREFILL, again)
    assert slot.policy is first
    assert policies.change(
        Role.PREFILL, policies.check("cache_aware", {"cache_threshold": 0}, named)
    )
    assert slot.policy is not first
    assert policies.watch(Role.PREFILL, named)
    assert not policies.watch(Role.PREFILL, named)
    assert policies.shadow(Role.PREFILL) == named
    assert policies.watch(Role.PREFILL, None)
    assert (slot.shadow, policies.shadow(Role.PREFILL)) == (None, None)


@pytest.mark.parametrize(
    ("name", "given", "at", "text"),
    [
        ("nobody", {}, "", "There is no policy 'nobody'; choose from random"),
        ("random", {"x": 1}, "x", "has no parameter 'x'; it has none"),
        ("cache_aware", {"max_idle_secs": 1}, "max_idle_secs", "it has cache_threshold"),
        ("cache_aware", {"cache_threshold": 1.1}, "cache_threshold", "at least 0 and at most 1"),
        ("cache_aware", {"cache_threshold": True}, "cache_threshold", "must be a number"),
        ("cache_aware", {"cache_threshold": "1"}, "cache_threshold", "must be a number"),
        ("bucket", {"balance_abs_threshold": 1.5}, "balance_abs_threshold", "a whole number"),
        ("bucket", {"balance_rel_threshold": float("inf")}, "balance_rel_threshold", "at least 1"),
        ("manual", {"assignment_mode": []}, "assignment_mode", "one of random, min_load"),
    ],
)
def test_wrong_policies_are_refused(
    name: str, given: dict[str, object], at: str, text: str
) -> None:
    """With the parameter and what it may be."""
    with pytest.raises(ParameterFault, match=text) as fault:
        running({Role.PREFILL: PolicySlot(LeastLoad())}).check(name, given)
    assert fault.value.name == at


@pytest.mark.parametrize("name", POLICIES)
def test_settings_and_catalogue_agree(name: str) -> None:
    """On names, defaults, and the edges of the ranges; each policy is made from both edges."""
    settings = Settings()
    assert POLICIES[name].read({}, settings.policy_parameters) == POLICIES[name].read({}, {})
    for one in POLICIES[name].parameters:
        constraints = Settings.model_fields[one.name].metadata
        edges = {"low": one.low, "high": one.high}
        for constraint in constraints:
            if hasattr(constraint, "ge"):
                assert constraint.ge == edges["low"], one.name
            if hasattr(constraint, "le"):
                assert constraint.le == edges["high"], one.name
        if not one.words:
            edge: dict[str, Any] = {one.name: type(one.default)(one.low)}
            assert POLICIES[name](**edge).name == name


def test_a_reason_in_words() -> None:
    """As structured fields; without the workers for the log, which names them beside it."""
    prefill = Choice("http://p:1", "cache_aware", "prefix", 4, 2, "http://p:2")
    decode = Choice("http://d:1", "power_of_two", "", 3, 0, "http://d:1")
    reason = Reason(prefill, decode, 1, 0)
    assert str(reason) == (
        "prefill;policy=cache_aware;why=prefix;candidates=4;requests=2;rank=1;shadow=other, "
        "decode;policy=power_of_two;candidates=3;requests=0;shadow=same"
    )
    queued = replace_shadows(reason)._replace(queued=Queued(0.01234, 1.5, 800.4))
    assert queued.text(with_urls=True) == (
        'prefill="http://p:1";policy=cache_aware;why=prefix;candidates=4;requests=2;rank=1, '
        'decode="http://d:1";policy=power_of_two;candidates=3;requests=0, '
        "queue;waited_ms=12.3;ahead_ms=1500.0;uncached_tokens=800"
    )
    assert 'shadow="http://p:2"' in reason.text(with_urls=True)


def test_a_reason_without_a_pair() -> None:
    """With the policy's choice, where one chose."""
    choice = Choice("http://r:1", "least_load", "", 2, 1)
    assert Alone("http://r:1", "short", 3, choice).text(with_urls=True) == (
        'worker="http://r:1";policy=least_load;candidates=2;requests=1;rank=3;alone=short'
    )
    cached = Alone("http://r:1", "cached", 1)
    assert cached.text(with_urls=True) == 'worker="http://r:1";rank=1;alone=cached'
    assert cached.text(with_urls=False) == "worker;rank=1;alone=cached"


def replace_shadows(reason: Reason) -> Reason:
    return reason._replace(
        prefill=reason.prefill._replace(shadow=""), decode=reason.decode._replace(shadow="")
    )
