"""Who serves without a prefill worker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.errors import CapacityError, NoPairAvailable
from app.policies.least_load import LeastLoad
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.reason import Choice
from app.scheduling.scheduler import Ask, LocalScheduler, Outcome
from app.scheduling.skip_rule import LoadGate, SkipRule
from app.scheduling.solo import SoloCounts, SoloGrant, Why
from app.scheduling.solo_chooser import SoloChooser
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

FACTS = replace(peek(Route.GENERATE, b'{"text":"x"}'), model="m")
LONG = replace(FACTS, n_prompt_tokens=10_000, prompt_key=b"k" * 40_000)
CHOICE = Choice("", "least_load", "", 1, 0)


class Fleet:
    """A registry, its scheduler, and what was told."""

    def __init__(self, below_tokens: int = 0, *, decodes_alone: bool = False) -> None:
        self.now_s = 0.0
        self.told: list[tuple[str, bool]] = []
        self.counts = SoloCounts()
        self.registry = Registry(now_s=lambda: self.now_s)
        solos = SoloChooser(
            LeastLoad(),
            lambda: self.now_s,
            SkipRule(below_tokens),
            decodes_alone=decodes_alone,
            counts=self.counts,
            tell=lambda model, is_missing: self.told.append((model, is_missing)),
        )
        self.scheduler = LocalScheduler(
            self.registry, LeastLoad(), LeastLoad(), lambda: self.now_s, solos
        )

    def add(self, url: str, role: Role, *models: str, kv_role: str = "") -> Worker:
        """Add a ready worker; without models it takes any."""
        worker = self.registry.add(WorkerSpec(url, role))
        facts = VllmFacts(kv_role=kv_role) if url.startswith("grpc") else None
        self.registry.set_info(worker, WorkerInfo(model_ids=models, vllm=facts))
        self.registry.set_state(worker, State.READY)
        return worker

    def add_pair(self, kv_role: str = "kv_both") -> tuple[Worker, Worker]:
        """Add a ready vLLM pair of the model ``m``."""
        prefill = self.add("grpc://p:1", Role.PREFILL, "m")
        return prefill, self.add("grpc://d:1", Role.DECODE, "m", kv_role=kv_role)

    def alone(self, ask: Ask | None = None) -> SoloGrant | None:
        """Ask who serves alone, before a pair was looked for."""
        return self.scheduler.alone(ask or Ask(FACTS))


def test_nobody_serves_alone_without_such_workers() -> None:
    """Pairs only: nothing is looked at."""
    fleet = Fleet()
    fleet.add_pair()
    assert fleet.alone() is None
    assert fleet.scheduler.alone(Ask(FACTS), NoPairAvailable("no")) is None


@pytest.mark.parametrize("model", ["m", "made up", None])
def test_wildcards_serve_any_model(model: str | None) -> None:
    """A regular worker that named no model takes all; its lease is given back once."""
    fleet = Fleet()
    worker = fleet.add("http://r:1", Role.REGULAR)
    grant = fleet.alone(Ask(replace(FACTS, model=model)))
    assert grant is not None
    assert (grant.solo.worker, grant.solo.leg, grant.solo.why) == (worker, None, Why.NO_PAIR)
    assert worker.load == 1
    for _ in range(2):
        fleet.scheduler.done(grant, Outcome.OK)
    assert worker.load == 0


def test_models_are_told_apart() -> None:
    """A regular worker of another model is no help."""
    fleet = Fleet()
    fleet.add("http://r:1", Role.REGULAR, "other")
    assert fleet.alone() is None
    assert fleet.alone(Ask(replace(FACTS, model="other"))) is not None


def test_regular_worker_where_no_pair_can() -> None:
    """A pair comes first; only once it has failed to be had the regular worker serves."""
    fleet = Fleet()
    fleet.add_pair()
    worker = fleet.add("http://r:1", Role.REGULAR, "m")
    assert fleet.alone() is None
    grant = fleet.scheduler.alone(Ask(FACTS), NoPairAvailable("no"))
    assert grant is not None
    assert grant.solo.worker is worker
    tried = Ask(FACTS, frozenset({worker.id}))
    assert fleet.scheduler.alone(tried, NoPairAvailable("no")) is None


def test_half_open_breaker_is_a_trial() -> None:
    """The request is the worker's trial, and gives its place back."""
    fleet = Fleet()
    worker = fleet.add("http://r:1", Role.REGULAR, "m")
    for _ in range(10):
        worker.breaker.record_failure()
    assert fleet.alone() is None
    fleet.now_s = 100.0
    grants = [fleet.alone() for _ in range(4)]
    assert [grant is not None for grant in grants] == [True, True, True, False]
    assert grants[0] is not None
    fleet.scheduler.done(grants[0], Outcome.CANCELLED)
    assert fleet.alone() is not None


def test_short_and_cached_prompts() -> None:
    """Short ones always; long ones where decode has served them, until it forgets."""
    fleet = Fleet(below_tokens=256)
    prefill, decode = fleet.add_pair()
    short = fleet.alone()
    assert short is not None
    assert (short.solo.worker, short.solo.leg, short.solo.why) == (decode, "decode", Why.SHORT)
    assert fleet.alone(Ask(replace(FACTS, n_prompt_tokens=256))) is None
    assert fleet.alone(Ask(LONG)) is None
    pair = fleet.scheduler.grant(Ask(LONG), prefill, 0, [decode], CHOICE)
    fleet.scheduler.done(pair, Outcome.FAILED)
    assert fleet.alone(Ask(LONG)) is None
    pair = fleet.scheduler.grant(Ask(LONG), prefill, 0, [decode], CHOICE)
    fleet.scheduler.done(pair, Outcome.OK)
    cached = fleet.alone(Ask(LONG))
    assert cached is not None
    assert (cached.solo.worker, cached.solo.why) == (decode, Why.CACHED)
    other = replace(LONG, prompt_key=b"z" * 40_000)
    assert fleet.alone(Ask(other)) is None
    fleet.registry.announce("restarted", decode)
    assert fleet.alone(Ask(LONG)) is None
    assert fleet.counts.by_why == {Why.SHORT: 1, Why.CACHED: 1}


def test_full_workers_get_no_short_prompts() -> None:
    """One that said that it is full is left to its pairs."""
    fleet = Fleet(below_tokens=256)
    _, decode = fleet.add_pair()
    decode.back_off(5.0)
    assert fleet.alone() is None
    fleet.now_s = 5.0
    assert fleet.alone() is not None


def test_rule_wants_few_uncached_tokens_and_a_small_share() -> None:
    """Both limits hold, at their borders."""
    rule = SkipRule(256, 2048, 0.7)
    assert (rule.is_short(255), rule.is_short(256)) == (True, False)
    assert rule.is_cached(4000, 2047)
    assert not rule.is_cached(4000, 2048)
    assert rule.is_cached(1000, 700)
    assert not rule.is_cached(1000, 701)
    assert not SkipRule().is_short(0)


def test_gate_does_not_flap() -> None:
    """Closed at the limit, open again only below three quarters of it."""
    gate = LoadGate(0.8)
    worker = Worker(WorkerSpec("http://r:1", Role.REGULAR))
    worker.info = WorkerInfo(max_running_requests=100)
    found = []
    for worker.n_leases in (79, 80, 79, 61, 59, 79, 80):
        found.append(gate.is_open(worker))
    assert found == [True, False, False, False, True, True, False]


def test_missing_prefill_is_told_once() -> None:
    """Once when decode begins to serve alone, once when it need not any more."""
    fleet = Fleet(decodes_alone=True)
    prefill, decode = fleet.add_pair("kv_consumer")
    assert fleet.alone() is None
    fleet.registry.set_state(prefill, State.UNHEALTHY)
    for _ in range(2):
        grant = fleet.alone()
        assert grant is not None
        assert (grant.solo.worker, grant.solo.why) == (decode, Why.MISSING_PREFILL)
    assert fleet.told == [("m", True)]
    fleet.registry.set_state(prefill, State.READY)
    for _ in range(2):
        assert fleet.alone() is None
    assert fleet.told == [("m", True), ("m", False)]


def test_sglang_decode_is_refused_by_name() -> None:
    """Only once there is a refusal to add it to."""
    fleet = Fleet(decodes_alone=True)
    fleet.add("http://d:1", Role.DECODE, "m")
    assert fleet.alone() is None
    with pytest.raises(NoPairAvailable, match="SGLang decode workers cannot compute prompts"):
        fleet.scheduler.alone(Ask(FACTS), NoPairAvailable("No pair.", retry_after_s=1))


@pytest.mark.parametrize("full", ["prefill", "decode"])
def test_full_pairs_leave_it_to_a_regular_worker(full: str) -> None:
    """Unless that one is full, too: then the pair may as well be asked."""
    fleet = Fleet()
    pair = dict(zip(("prefill", "decode"), fleet.add_pair(), strict=True))
    worker = fleet.add("http://r:1", Role.REGULAR, "m")
    pair[full].back_off(5.0)
    grant = fleet.alone()
    assert grant is not None
    assert grant.solo.worker is worker
    worker.back_off(4.0)
    assert fleet.alone() is None
    fleet.now_s = 4.0
    assert fleet.alone() is not None
    fleet.now_s = 5.0
    assert fleet.alone() is None


def test_full_queue() -> None:
    """A regular worker need not wait for the pairs; decode is not put to prefill's work."""
    fleet = Fleet(decodes_alone=True)
    fleet.add_pair()
    failure = CapacityError("full", code="queue_full")
    assert fleet.scheduler.alone(Ask(FACTS), failure) is None
    worker = fleet.add("http://r:1", Role.REGULAR, "m")
    grant = fleet.scheduler.alone(Ask(FACTS), failure)
    assert grant is not None
    assert grant.solo.worker is worker
