"""The workers that were added, changed or removed over REST, the same at all replicas.

Every process that has a registry keeps the last record of each such worker, as the store does.
The greater record counts, wherever it is found: so it does not matter who was away, or whether
the store has lost everything. Only what is newer than what was followed before is followed: what
a gateway did to a worker by its own rules stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from app.state.records import Record, is_newer, read_record
from app.state.store import StoreAway
from app.workers.registry import DuplicateWorker
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.clock import Clock
    from app.state.store import Store
    from app.workers.drain import Drain
    from app.workers.registry import Registry
    from app.workers.worker import Worker, WorkerSpec

RECONCILE_S = 5.0
"""Everything is compared so often, in case that something was not told."""
KEPT_S = 7 * 86_400.0
"""So long it is remembered that a worker was removed which no settings name."""
_ELSEWHERE = "asked at another replica"


class Asked(Protocol):
    """Who asks a worker anew what it serves."""

    def register_anew(self, worker: Worker) -> None:
        """Have it asked."""


class SharedWorkers:
    """Keeps a registry and the store in step.

    Args:
        store: Where the records are.
        who: This process's name among all, without a bar.
        registry: This gateway's workers.
        drain: Removes some.
        health: Asks them anew.
        named: The addresses that the settings name.
        finds_pods: Workers come from elsewhere too, so one without a record is nothing to keep.
        unix_s: The time of day.
    """

    def __init__(
        self,
        store: Store,
        who: str,
        registry: Registry,
        drain: Drain,
        health: Asked,
        *,
        named: Iterable[str],
        finds_pods: bool,
        unix_s: Clock,
    ) -> None:
        self._store = store
        self._who = who
        self._registry = registry
        self._drain = drain
        self._health = health
        self._named = frozenset(named)
        self._finds_pods = finds_pods
        self._unix_s = unix_s
        self._records: dict[str, Record] = {}
        self._unsent: set[str] = set()
        self._wake = asyncio.Event()
        self._waiting: dict[str, Record] = {}
        """New workers in the place of one that is still on its way out."""
        self._log = structlog.get_logger("tandem.state")
        registry.subscribe(self._on_event)

    # What this gateway was asked over REST.

    def changed(self, worker: Worker) -> None:
        """Notes that a worker was added, or is another one now."""
        self._note(self._next(worker.spec.address, worker.spec))

    def removed(self, worker: Worker, timeout_s: float | None, *, is_forced: bool) -> None:
        """Notes that a worker is to go."""
        record = self._next(worker.spec.address, None)
        self._note(record._replace(timeout_s=timeout_s, is_forced=is_forced))

    def _next(self, address: str, spec: WorkerSpec | None) -> Record:
        n = 1 + max((record.n for record in self._records.values()), default=0)
        return Record(n, self._who, address, spec, address in self._named, self._unix_s())

    def _note(self, record: Record) -> None:
        self._records[record.address] = record
        self._waiting.pop(record.address, None)
        self._unsent.add(record.address)
        self._wake.set()

    # What the store has.

    async def at_start(self, specs: Iterable[WorkerSpec], limit_s: float) -> list[WorkerSpec]:
        """Returns the settings' workers as they were left, without those that were removed.

        Args:
            specs: As the settings have them.
            limit_s: Longest wait for the store; without it they are as they are.
        """
        try:
            async with asyncio.timeout(limit_s):
                found = await self._store.records()
        except (StoreAway, TimeoutError) as error:
            self._log.warning("the shared state was not read at the start", reason=str(error))
            return list(specs)
        left = []
        for spec in specs:
            record = self._read(found.get(spec.address))
            if record is None:
                left.append(spec)
                continue
            self._records[record.address] = record
            if record.spec is not None and record.spec.role is spec.role:
                left.append(record.spec)
            elif record.spec is not None:
                # The settings have changed since: they say what it is.
                left.append(spec)
        return left

    async def follow(self) -> None:
        """Follows what other replicas change; until cancelled.

        Raises:
            StoreAway: The store is.
        """
        loop = asyncio.get_running_loop()
        async with self._store.listening() as heard:
            due_s = loop.time()
            while True:
                if loop.time() >= due_s:
                    await self._reconcile()
                    due_s = loop.time() + RECONCILE_S
                record = self._read(await heard(max(0.01, due_s - loop.time())))
                if record is not None:
                    self._take(record)

    async def send(self) -> None:
        """Sends what was changed here; until cancelled.

        Raises:
            StoreAway: The store is; what was not sent is sent once it is back.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            for address in tuple(self._unsent):
                record = self._records[address]
                newer = self._read(await self._store.put(address, record.text))
                if self._records[address] is record:
                    self._unsent.discard(address)
                if newer is not None:
                    self._take(newer)

    async def _reconcile(self) -> None:
        found = await self._store.records()
        for text in found.values():
            record = self._read(text)
            if record is None:
                continue
            if self._is_old(record):
                await self._store.forget(record.address, text)
                self._records.pop(record.address, None)
            else:
                self._take(record)
        self._keep_restored()
        for address, record in tuple(self._records.items()):
            if self._is_old(record):
                del self._records[address]
                self._unsent.discard(address)
            elif found.get(address, "") < record.text:
                self._unsent.add(address)
        if self._unsent:
            self._wake.set()

    def _keep_restored(self) -> None:
        """Makes records of workers that this process was given without: they came over REST once.

        A brain that was started anew while the store was gone has only the workers themselves.
        """
        if self._finds_pods:
            return
        for worker in self._registry.workers():
            address = worker.spec.address
            if address not in self._records and address not in self._named:
                spec = None if worker.state is State.DRAINING else worker.spec
                # The oldest of all: whatever anybody else knows of it counts.
                self._records[address] = self._next(address, spec)._replace(n=0)

    def _is_old(self, record: Record) -> bool:
        is_kept = record.spec is not None or record.is_named or record.address in self._named
        return not is_kept and self._unix_s() - record.at_unix_s > KEPT_S

    def _read(self, text: str | None) -> Record | None:
        if text is None:
            return None
        try:
            return read_record(text)
        except ValueError as error:
            self._log.error("what the store holds is passed over", reason=str(error))
            return None

    def _take(self, record: Record) -> None:
        """Follows a record, unless it or a newer one was followed."""
        if is_newer(record, self._records.get(record.address)):
            self._records[record.address] = record
            self._unsent.discard(record.address)
            self._waiting.pop(record.address, None)
            self._apply(record)

    # The registry.

    def _apply(self, record: Record) -> None:
        worker, spec = self._registry.find(record.address), record.spec
        if spec is None:
            if worker is not None:
                timeout_s, is_forced = record.timeout_s, record.is_forced
                self._drain.start(worker, _ELSEWHERE, timeout_s=timeout_s, is_forced=is_forced)
        elif worker is None:
            self._add(record, spec)
        elif worker.state is State.DRAINING or worker.spec.role is not spec.role:
            self._waiting[record.address] = record
            self._drain.start(worker, _ELSEWHERE)
        elif worker.spec != spec:
            self._change(worker, spec)

    def _add(self, record: Record, spec: WorkerSpec) -> None:
        try:
            self._registry.add(spec)
        except DuplicateWorker as taken:
            if taken.state is State.DRAINING:
                self._waiting[record.address] = record
            else:
                self._log.warning("a worker of another replica is not added", reason=str(taken))
        else:
            self._log.info("worker_added", worker=spec.address, role=str(spec.role))

    def _change(self, worker: Worker, spec: WorkerSpec) -> None:
        old = worker.spec
        # Its id stays: requests and whoever looks at it know it by that.
        self._registry.set_spec(worker, spec if spec.id == old.id else replace(spec, id=old.id))
        if (old.api_key, old.model_ids) != (spec.api_key, spec.model_ids):
            self._health.register_anew(worker)

    def _on_event(self, event: str, _worker: Worker) -> None:
        if event == "removed" and self._waiting:
            # Once all have taken note of the removal.
            asyncio.get_running_loop().call_soon(self._come_in)

    def _come_in(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for record in waiting.values():
            self._apply(record)
