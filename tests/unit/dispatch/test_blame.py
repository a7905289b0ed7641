"""Whose failure it was, and who pays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.dispatch import blame as blame_module
from app.dispatch.blame import CAPACITY_BACKOFF_S, Blame
from app.errors import (
    KV_LOAD_FAILED,
    Leg,
    LegBroken,
    LegEnded,
    LegRejected,
    LegTimedOut,
    LegUnreachable,
    WorkerError,
)
from app.scheduling.scheduler import Pair
from app.scheduling.solo import Solo, Why
from app.workers.breaker import Breaker
from app.workers.probe_rules import ProbeResult
from app.workers.worker import Role, Worker, WorkerSpec

REPORT = "Decode transfer failed: KVTransferError: Lost connection with prefill (10.0.0.1:8998)"


class Settling:
    """A pair whose breakers open at one failure, and what the health loop was told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pair = Pair(self._worker(Role.PREFILL), self._worker(Role.DECODE))
        self.sick: set[str] = set()
        self.asked: list[str] = []
        self.told: list[tuple[str, str]] = []
        fakes: Any = self
        self.blame = Blame(fakes, fakes, lambda: self.now_s)

    def _worker(self, role: Role) -> Worker:
        spec = WorkerSpec(f"http://{role}:8000", role)
        return Worker(spec, Breaker(lambda: self.now_s, failure_threshold=1), lambda: self.now_s)

    @property
    def charged(self) -> list[str]:
        """Roles whose breaker opened."""
        pair = (self.pair.prefill, self.pair.decode)
        return [str(worker.spec.role) for worker in pair if not worker.breaker.is_closed]

    # As the clients: a client a worker, which can be probed.

    def control(self, worker: Worker) -> Any:
        """The client of a worker."""
        return Probed(self, str(worker.spec.role))

    # As the health loop.

    def probe_now(self, worker: Worker) -> None:
        """Notes it."""
        self.told.append(("probe", str(worker.spec.role)))

    def note_connect_failure(self, worker: Worker) -> None:
        """Notes it."""
        self.told.append(("cut off", str(worker.spec.role)))

    def note_success(self, worker: Worker) -> None:
        """Notes it."""
        self.told.append(("success", str(worker.spec.role)))


class Probed:
    """A worker's client."""

    def __init__(self, settling: Settling, role: str) -> None:
        self._settling = settling
        self._role = role

    async def probe(self) -> ProbeResult:
        """The answer of a healthy worker; a sick one never answers."""
        self._settling.asked.append(self._role)
        if self._role in self._settling.sick:
            await asyncio.Event().wait()
        return ProbeResult(True)


@pytest.fixture
def settling(monkeypatch: pytest.MonkeyPatch) -> Settling:
    """A pair, with probes that are short."""
    monkeypatch.setattr(blame_module, "PROBE_TIMEOUT_S", 0.02)
    return Settling()


def report(kind: str) -> WorkerError:
    """A failure of decode that either leg may be behind."""
    if kind == "silence":
        return LegTimedOut("silent", leg="decode", worker_id="d")
    if kind == "status":
        return LegRejected(REPORT, leg="decode", worker_id="d", status=500)
    return LegBroken(REPORT, leg="decode", worker_id="d")


@pytest.mark.parametrize("kind", ["silence", "status", "abort"])
@pytest.mark.parametrize("sick", ["prefill", "decode", None])
async def test_probes_name_the_leg(settling: Settling, kind: str, sick: str | None) -> None:
    """Both are asked; who does not answer is named and charged, nobody if both do."""
    settling.sick = {sick} if sick else set()
    error = report(kind)
    settled = await settling.blame.settle(error, settling.pair)
    assert ["decode", "prefill"] == sorted(settling.asked)
    assert (sick, error.status, type(error)) == (settled.leg, settled.status, type(settled))
    assert ([sick] if sick else []) == settling.charged
    assert "10.0.0.1" not in settled.message
    if kind != "silence":
        assert "10.0.0.1:8998" in settled.detail
        assert "Lost connection with prefill" in settled.message


@pytest.mark.parametrize(
    ("sick", "named"), [("prefill", "prefill"), ("decode", "decode"), (None, "decode")]
)
async def test_cache_that_could_not_be_loaded(
    settling: Settling, sick: str | None, named: str
) -> None:
    """Prefill is named if it is gone; else decode, which is known to have failed."""
    settling.sick = {sick} if sick else set()
    error = LegBroken("no cache", leg="decode", worker_id="d", code=KV_LOAD_FAILED)
    settled = await settling.blame.settle(error, settling.pair)
    assert (settled.leg, settling.charged) == (named, [named])
    assert await settling.blame.settle(settled, settling.pair) is settled


async def test_both_sick_is_prefill(settling: Settling) -> None:
    """Without prefill there would have been nothing for decode to do."""
    settling.sick = {"prefill", "decode"}
    assert (await settling.blame.settle(report("status"), settling.pair)).leg == "prefill"
    assert settling.charged == ["prefill"]


async def test_settled_silence_asks_nobody(settling: Settling) -> None:
    """Decode had everything it needed: its silence is its own."""
    error = report("silence")
    error.is_settled = True
    assert (await settling.blame.settle(error, settling.pair)) is error
    assert ([], ["decode"]) == (settling.asked, settling.charged)


@pytest.mark.parametrize(
    ("status", "is_charged", "told"),
    [
        (400, False, []),
        (401, False, []),
        (422, False, []),
        (429, False, [("probe", "prefill")]),
        (503, False, [("probe", "prefill")]),
        (500, True, [("probe", "prefill")]),
        (502, True, [("probe", "prefill")]),
    ],
)
async def test_charge_by_status(
    settling: Settling, status: int, is_charged: bool, told: list[tuple[str, str]]
) -> None:
    """4xx is the client's, 429 and 503 are capacity, other 5xx are charged; nobody is awaited."""
    error = LegRejected("No.", leg="prefill", worker_id="p", status=status)
    await settling.blame.settle(error, settling.pair)
    assert (["prefill"] if is_charged else []) == settling.charged
    assert told == settling.told
    assert settling.asked == []
    is_full = status in (429, 503)
    assert is_full is settling.pair.prefill.is_full(CAPACITY_BACKOFF_S / 2)
    assert not settling.pair.prefill.is_full(CAPACITY_BACKOFF_S)


async def test_back_off_is_as_long_as_the_worker_says(settling: Settling) -> None:
    """Retry-After in seconds."""
    error = LegRejected("Full.", leg="decode", worker_id="d", status=503, retry_after_s=7)
    await settling.blame.settle(error, settling.pair)
    assert settling.pair.decode.is_full(6.9)
    assert not settling.pair.decode.is_full(7.0)


async def test_back_off_has_an_end(settling: Settling) -> None:
    """A worker that wants an hour is asked again after half a minute, if no other is left."""
    error = LegRejected("Full.", leg="decode", worker_id="d", status=429, retry_after_s=3600)
    await settling.blame.settle(error, settling.pair)
    assert settling.pair.decode.is_full(29.9)
    assert not settling.pair.decode.is_full(30.0)
    assert error.retry_after_s == 3600


async def test_full_or_sick(settling: Settling) -> None:
    """503 is a failure where the worker's last probe failed too; 429 never is."""
    settling.pair.prefill.n_failures = 1
    for status in (429, 503):
        error = LegRejected("No.", leg="prefill", worker_id="p", status=status)
        await settling.blame.settle(error, settling.pair)
        assert (["prefill"] if status == 503 else []) == settling.charged


async def test_unreachable_is_cut_off(settling: Settling) -> None:
    """Charged, out at once, and the admin sees the address that the client does not."""
    error = LegUnreachable("gone", leg="decode", worker_id="d", detail="No connection to decode:1")
    await settling.blame.settle(error, settling.pair)
    assert (["decode"], ("cut off", "decode")) == (settling.charged, settling.told[0])
    assert settling.pair.decode.last_error == "No connection to decode:1"


def test_success_credits_both(settling: Settling) -> None:
    """Both legs did their work."""
    settling.blame.succeeded(settling.pair)
    assert [("success", "decode"), ("success", "prefill")] == settling.told


def test_success_of_decode_alone(settling: Settling) -> None:
    """Prefill was not asked, so nothing is known of it."""
    settling.blame.succeeded(settling.pair, has_asked_prefill=False)
    assert [("success", "decode")] == settling.told


def test_late_failure_is_neither_credit_nor_charge(settling: Settling) -> None:
    """Prefill failed when it no longer mattered: it is probed, and its breaker stays as it was."""
    late = LegBroken("cut", leg="prefill", worker_id="p", detail="reset by 10.0.0.1")
    settling.blame.succeeded(settling.pair, late)
    assert [("success", "decode"), ("probe", "prefill")] == settling.told
    assert [] == settling.charged
    assert settling.pair.prefill.last_error == "reset by 10.0.0.1"


async def test_removed_worker_is_not_charged(settling: Settling) -> None:
    """The gateway ended the leg itself: nobody is charged or probed."""
    error = LegEnded("removed", leg="prefill", worker_id="p")
    assert (await settling.blame.settle(error, settling.pair)) is error
    assert ([], []) == (settling.charged, settling.told)


@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_trial_is_told_its_own_outcome(settling: Settling, leg: Leg) -> None:
    """A failed trial opens its own worker's breaker again; the sibling's place says nothing."""
    pair = settling.pair
    for worker in (pair.prefill, pair.decode):
        worker.breaker.record_failure()
    settling.now_s = 60.0
    pair.prefill_trial = pair.prefill.breaker.start_trial()
    pair.decode_trial = pair.decode.breaker.start_trial()
    await settling.blame.settle(LegBroken("cut", leg=leg, worker_id="x"), pair)
    states = {"prefill": pair.prefill.breaker.state, "decode": pair.decode.breaker.state}
    other = "decode" if leg == "prefill" else "prefill"
    assert (states[leg], states[other]) == ("open", "half_open")


def test_good_trials_close_both(settling: Settling) -> None:
    """Three of each."""
    pair = settling.pair
    for worker in (pair.prefill, pair.decode):
        worker.breaker.record_failure()
    settling.now_s = 60.0
    for _ in range(3):
        assert settling.charged == ["prefill", "decode"]
        pair.prefill_trial = pair.prefill.breaker.start_trial()
        pair.decode_trial = pair.decode.breaker.start_trial()
        settling.blame.succeeded(pair)
    assert settling.charged == []


@pytest.mark.parametrize("kind", ["silence", "status", "abort"])
async def test_one_worker_answers_for_itself(settling: Settling, kind: str) -> None:
    """There is no other leg that could be behind it: nobody is asked, it pays at once."""
    solo = Solo(settling.pair.decode, Why.NO_PAIR)
    error = report(kind)
    assert (await settling.blame.settle(error, solo)) is error
    assert ([], ["decode"]) == (settling.asked, settling.charged)


def test_success_of_one_worker(settling: Settling) -> None:
    """It alone is credited."""
    settling.blame.succeeded(Solo(settling.pair.decode, Why.NO_PAIR))
    assert [("success", "decode")] == settling.told
