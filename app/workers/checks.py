"""Asks workers how they are and what they serve, and notes the answers on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.workers.probe_rules import ProbeRecord, ProbeResult
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.clock import Clock
    from app.workers.probe_rules import ProbeRules
    from app.workers.registry import Registry
    from app.workers.worker import Worker, WorkerInfo


class Checks:
    """Probes and registrations of single workers.

    Args:
        registry: Told what a worker said of itself.
        probe: Asks the health endpoint.
        register: Asks what the worker serves; raises if it cannot be used.
        has_heard: Tells whether the worker sent a part of an answer to a client since it was
            asked this last.
        now_s: Clock in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        probe: Callable[[Worker], Awaitable[ProbeResult]],
        register: Callable[[Worker], Awaitable[WorkerInfo]],
        has_heard: Callable[[Worker], bool],
        now_s: Clock,
    ) -> None:
        self._registry = registry
        self._probe = probe
        self._register = register
        self._has_heard = has_heard
        self._now_s = now_s

    async def probe(self, worker: Worker, rules: ProbeRules) -> bool:
        """Probe once and count the outcome towards the thresholds; tells whether it was good.

        A worker that is too busy for its probe, yet sends tokens meanwhile, is well: its silence
        towards the probe does not count. A refused connection or an answer that says "not
        healthy" always does.
        """
        self._has_heard(worker)
        started_s = self._now_s()
        result = await self._ask(worker, rules.timeout_s)
        ended_s = self._now_s()
        is_vetoed = result.is_silence and self._has_heard(worker)
        error = "" if result.ok else result.error or "The probe failed."
        worker.last_probe = ProbeRecord(
            ended_s, ended_s - started_s, result.ok, error, is_vetoed=is_vetoed
        )
        if result.ok:
            if worker.n_failures and worker.state is State.READY:
                worker.last_error = ""
            worker.n_successes += 1
            worker.n_failures = 0
        elif is_vetoed:
            worker.n_failures = 0
        else:
            worker.n_failures += 1
            worker.n_successes = 0
            worker.last_error = error
        return result.ok

    async def register(self, worker: Worker, rules: ProbeRules) -> bool:
        """Register the worker; on failure its ``last_error`` says why."""
        limit_s = 3 * rules.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                info = await self._register(worker)
        except TimeoutError:
            worker.last_error = f"The registration did not end within {limit_s:g} s."
            return False
        except Exception as exc:  # noqa: BLE001 - kept as the worker's last error
            worker.last_error = sentence(exc)
            return False
        if worker.state is State.GONE:
            return False
        worker.last_error = ""
        self._registry.set_info(worker, info)
        return True

    async def _ask(self, worker: Worker, timeout_s: float) -> ProbeResult:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._probe(worker)
        except TimeoutError:
            return ProbeResult(
                False, f"No answer to the probe within {timeout_s:g} s.", is_silence=True
            )
        except Exception as exc:  # noqa: BLE001 - a broken probe must not end the loop
            return ProbeResult(False, f"The probe failed: {sentence(exc)}")


def sentence(exc: BaseException) -> str:
    """Return an exception's text, or its kind if it has none."""
    return str(exc) or type(exc).__name__
