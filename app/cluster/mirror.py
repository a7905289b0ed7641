"""A pipe's view of the workers: a registry that follows the brain's, and notes that go there."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from app.cluster.worker_copy import NEVER, take_pulse
from app.workers.breaker import Breaker, Trial
from app.workers.health import HealthLoop
from app.workers.registry import Registry
from app.workers.states import State, WrongMove
from app.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from app.clock import Clock
    from app.cluster.link import Link
    from app.cluster.worker_copy import Pulse, Revision, WorkerCopy
    from app.workers.worker import WorkerSpec

    Tell = Callable[..., bool]


class FarTrial(Trial):
    """A trial that the brain keeps: which grant's, and of which leg."""

    __slots__ = ("leg", "no")

    def __init__(self, no: int, leg: str) -> None:
        super().__init__(set(), 0.0)
        self.no = no
        self.leg = leg


class FarBreaker(Breaker):
    """Tells the brain how requests ended; while that is away it counts by itself.

    Args:
        worker_id: Whose breaker it is.
        link: Takes messages for the brain; tells whether it is there.
        thresholds: As of :class:`Breaker`, like what follows.
    """

    __slots__ = ("_link", "_worker_id")

    def __init__(self, worker_id: str, link: Link, *thresholds: Any, **more: Any) -> None:
        super().__init__(*thresholds, **more)
        self._worker_id = worker_id
        self._link = link

    def record_success(self, trial: Trial | None = None) -> None:
        """Note that the worker did what it was asked."""
        if trial is None and (goods := self._link.sums) is not None:
            # The end of the request, of which it is told as well, follows at once.
            goods[self._worker_id] = goods.get(self._worker_id, 0) + 1
        elif not self._link.tell("good", self._worker_id, *_named(trial)):
            super().record_success(trial)

    def record_failure(self, trial: Trial | None = None) -> None:
        """Note that the worker failed a request by its own fault."""
        if not self._link.tell("bad", self._worker_id, *_named(trial)):
            super().record_failure(trial)


def _named(trial: Trial | None) -> tuple[int | None, str]:
    """Returns number and leg; no number: no trial; number 0: one that only this pipe knows."""
    if isinstance(trial, FarTrial):
        return trial.no, trial.leg
    return (None, "") if trial is None else (0, "")


class FarWorker(Worker):
    """A worker whose troubles are told to the brain."""

    __slots__ = ("_tell",)

    def __init__(self, spec: WorkerSpec, breaker: Breaker, tell: Tell, **more: Any) -> None:
        super().__init__(spec, breaker, **more)
        self._tell = tell

    def back_off(self, until_s: float) -> None:
        """Use it last until then, here at once and soon everywhere."""
        super().back_off(until_s)
        self._tell("full", self.id, until_s)

    @property
    def last_error(self) -> str:
        """What went wrong with it last on this pipe."""
        return self._last_error

    @last_error.setter
    def last_error(self, text: str) -> None:
        self._note_error(text)
        self._tell("error", self.id, text)


class FarHealth(HealthLoop):
    """Probes nobody: asks the brain to."""

    def __init__(self, *args: Any, tell: Tell, **more: Any) -> None:
        super().__init__(*args, **more)
        self._tell = tell

    async def run(self) -> None:
        """The brain does it."""
        await asyncio.Event().wait()

    def probe_now(self, worker: Worker) -> None:
        """Have the worker probed at once."""
        self._tell("probe", worker.id)

    def note_connect_failure(self, worker: Worker, error: str = "") -> None:
        """Take note that traffic could not connect: the brain takes it out for everybody."""
        self._tell("cut", worker.id, error)

    def note_success(self, worker: Worker) -> None:
        """Nothing more: that the request went well is told by its breaker."""


class Mirror(Registry):
    """Follows the brain's registry.

    Args:
        link: Takes messages for the brain; tells whether it is there.
        make_breaker: Makes a breaker of the class that it is given.

    Attributes:
        revision: How far it follows.
    """

    def __init__(self, link: Link, make_breaker: Callable[[Any], Breaker], now_s: Clock) -> None:
        super().__init__(now_s)
        self._link = link
        self._make_far = make_breaker
        self.revision: Revision = NEVER

    def _make(self, spec: WorkerSpec) -> Worker:
        breaker = self._make_far(partial(FarBreaker, spec.id, self._link))
        return FarWorker(spec, breaker, self._link.tell, now_s=self._now_s)

    def take_all(self, copies: Iterable[WorkerCopy], revision: Revision) -> None:
        """Becomes what the brain's registry is."""
        found = {copy.spec.id: copy for copy in copies}
        for worker in self.workers():
            if worker.id not in found:
                self.remove(worker.id)
        for copy in found.values():
            self.take("info", copy, revision)
        self.revision = revision

    def take(self, event: str, copy: WorkerCopy, revision: Revision) -> None:
        """Follows one change."""
        self.revision = revision
        worker = self.get(copy.spec.id)
        if worker is None:
            worker = self.add(copy.spec)
        elif worker.spec != copy.spec:
            self.set_spec(worker, copy.spec)
        if worker.info != copy.info or worker.is_discovered is not copy.is_discovered:
            self.set_info(worker, copy.info)
            worker.is_discovered = copy.is_discovered
        worker.is_overdue = copy.is_overdue
        take_pulse(worker, copy.pulse)
        for state in _way(worker.state, copy.state):
            try:
                self.set_state(worker, state, copy.reason)
            except WrongMove:
                # The brain began anew and asks it again; what runs there keeps the old object.
                self.remove(worker.id, "registered anew")
                self.take(event, copy, revision)
                return
        if event in ("restarted", "flushed"):
            self.announce(event, worker)

    def drop(self, worker_id: str, reason: str, revision: Revision) -> Worker | None:
        """Follows a removal; returns the worker, if it was here."""
        self.revision = revision
        return self.remove(worker_id, reason) if self.get(worker_id) is not None else None

    def feel(self, pulses: Iterable[Pulse]) -> None:
        """Takes over what is live of some workers."""
        for pulse in pulses:
            worker = self.get(pulse.worker_id)
            if worker is not None:
                take_pulse(worker, pulse)


def _way(old: State, new: State) -> tuple[State, ...]:
    """Returns the moves from one state to another: a new worker has to be ready first."""
    if old is State.JOINING and new in (State.UNHEALTHY, State.DRAINING):
        return State.READY, new
    return (new,)
