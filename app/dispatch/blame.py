"""Whose failure it was, and who pays for it.

SGLang reports the death of a peer on the survivor, and a hung leg makes the other silent too; a
vLLM decode worker whose prefill worker is gone fails to load the KV cache. Such failures charge
nobody until both workers were asked; the one that does not answer its probe is the leg that is
named. What a failure costs is told in ``charging``.
"""

from __future__ import annotations

import asyncio

from app.clock import Clock
from app.dispatch.charging import charge_of
from app.errors import (
    KV_LOAD_FAILED,
    Leg,
    LegBroken,
    LegRejected,
    LegTimedOut,
    WorkerError,
)
from app.protocol.peer_blame import is_peer_death, without_addresses
from app.scheduling.scheduler import Pair
from app.scheduling.solo import Solo
from app.upstream.clients import WorkerClients
from app.workers.breaker import Trial
from app.workers.health import HealthLoop
from app.workers.worker import Worker

PROBE_TIMEOUT_S = 1.0
CAPACITY_BACKOFF_S = 1.0
"""So long a worker that is full is used last, unless its ``Retry-After`` says otherwise."""
MAX_CAPACITY_BACKOFF_S = 30.0
"""Whatever it says: what was full then need not be now, and nobody would ask it."""


class Blame:
    """Settles failures of legs.

    Args:
        clients: Where probes are sent.
        health: Told of connect failures and asked for probes.
        now_s: The clock of the workers' breakers.
        exposes_addresses: Clients are told where the workers live.
    """

    def __init__(
        self,
        clients: WorkerClients,
        health: HealthLoop,
        now_s: Clock,
        *,
        exposes_addresses: bool = False,
    ) -> None:
        self._clients = clients
        self._health = health
        self._now_s = now_s
        self._exposes_addresses = exposes_addresses

    async def settle(
        self, error: WorkerError, pair: Pair | Solo, asked: bytes = b""
    ) -> WorkerError:
        """Names the leg that failed, charges its worker once, and returns the error to show.

        Args:
            error: What a leg raised.
            pair: The pair, or the one worker, which answers for whatever went wrong.
            asked: The client's own body: an address that stands there is no news to it.
        """
        if error.is_counted:
            return error
        if isinstance(pair, Pair) and _is_ambiguous(error):
            error = await self._ask_both(error, pair)
        if self._exposes_addresses:
            error.message = error.with_detail()
        else:
            hosts = [worker.host for worker in pair.workers]
            message = without_addresses(error.message, hosts, asked)
            if message != error.message:
                error.detail = error.detail or error.message
                error.message = message
        if (payer := pair.of(error.leg)) is not None:
            self._charge(error, *payer)
        error.is_counted = True
        return error

    def succeeded(
        self,
        pair: Pair | Solo,
        late_failure: WorkerError | None = None,
        *,
        has_asked_prefill: bool = True,
    ) -> None:
        """Decode did its work, and so, as far as the request goes, did prefill.

        Args:
            pair: The pair, or the one worker.
            late_failure: Prefill's failure after the KV cache had arrived. It cost nobody
                anything, so it is not charged; it is no success either, and a reason to ask the
                worker how it is.
            has_asked_prefill: Without, nothing was learned of prefill.
        """
        if isinstance(pair, Solo):
            self._credit(pair.worker, pair.trial)
            return
        self._credit(pair.decode, pair.decode_trial)
        if not has_asked_prefill:
            return
        if late_failure is None:
            self._credit(pair.prefill, pair.prefill_trial)
            return
        pair.prefill.last_error = late_failure.detail or late_failure.message
        self._health.probe_now(pair.prefill)

    def _credit(self, worker: Worker, trial: Trial | None) -> None:
        worker.breaker.record_success(trial)
        self._health.note_success(worker)

    async def _ask_both(self, error: WorkerError, pair: Pair) -> WorkerError:
        async with asyncio.TaskGroup() as probes:
            prefill = probes.create_task(self._answers(pair.prefill))
            decode = probes.create_task(self._answers(pair.decode))
        dead: Leg
        if not prefill.result():
            dead, worker = "prefill", pair.prefill
        elif not decode.result():
            dead, worker = "decode", pair.decode
        elif error.code == KV_LOAD_FAILED:
            # The one that could not load it is the one that is known to be at fault.
            return error
        else:
            # Both are alive, and each may have been waiting for the other: neither can be named.
            error.leg = None
            return error
        if dead != error.leg:
            error = type(error)(
                f"the {dead} worker does not answer; the other leg said: {error.message}",
                leg=dead,
                worker_id=worker.spec.id,
                status=error.status,
                detail=error.detail,
            )
        return error

    async def _answers(self, worker: Worker) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return (await self._clients.control(worker).probe()).ok
        except TimeoutError:
            return False

    def _charge(self, error: WorkerError, worker: Worker, trial: Trial | None) -> None:
        worker.last_error = error.detail or error.message
        charge = charge_of(error, is_sick=worker.n_failures > 0)
        if charge.is_cut_off:
            self._health.note_connect_failure(worker)
        if charge.is_probed:
            self._health.probe_now(worker)
        if charge.is_full:
            backoff_s = min(error.retry_after_s or CAPACITY_BACKOFF_S, MAX_CAPACITY_BACKOFF_S)
            worker.back_off(self._now_s() + backoff_s)
        if charge.is_failure:
            worker.n_charged += 1
            worker.breaker.record_failure(trial)


def _is_ambiguous(error: WorkerError) -> bool:
    if error.code == KV_LOAD_FAILED:
        return True
    if isinstance(error, LegTimedOut):
        return not error.is_settled
    return isinstance(error, LegRejected | LegBroken) and is_peer_death(error.message)
