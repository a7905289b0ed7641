"""Removed workers finish what they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.workers import drain as drain_module
from app.workers.drain import Drain
from app.workers.lease import Lease
from app.workers.registry import Registry
from app.workers.states import Event, State
from app.workers.worker import Role, Worker, WorkerSpec


@dataclass
class Rig:
    """A registry, a drain, and connections of which the number is set by hand."""

    now_s: float = 0.0
    n_open: int = 0
    ended: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    on_end: Callable[[], None] = lambda: None
    drop_hangs: bool = False

    def __post_init__(self) -> None:
        self.registry = Registry(now_s=lambda: self.now_s)
        self.drain = Drain(self.registry, self, 600, lambda: self.now_s, self.log)

    def log(self, event: str, worker: Worker, reason: str) -> None:
        """Keeps the reasons of removals, and what else is said."""
        self.logged.append(reason if event == "removed" else event)

    def add(self, state: State = State.READY) -> Worker:
        """A worker that has joined, unless told otherwise."""
        worker = self.registry.add(
            WorkerSpec(url=f"http://d:{1 + len(self.registry.workers())}", role=Role.DECODE)
        )
        if state is not State.JOINING:
            self.registry.apply(worker, Event.JOINED)
        return worker

    # As the connections.

    def n_running(self, worker: Worker) -> int:
        return self.n_open

    def end(self, worker: Worker) -> int:
        self.ended.append(worker.spec.url)
        self.on_end()
        return 2

    async def drop(self, worker: Worker) -> None:
        self.dropped.append(worker.spec.url)
        if self.drop_hangs:
            await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the drain."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.drain.run())
            try:
                yield
            finally:
                task.cancel()

    async def until_gone(self, worker: Worker) -> None:
        """Waits for its removal and the end of its connections."""
        async with asyncio.timeout(2):
            while worker.state is not State.GONE or worker.spec.url not in self.dropped:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def _a_few_rounds() -> None:
    await asyncio.sleep(3 * drain_module.POLL_S)


async def test_busy_worker_stays_until_idle() -> None:
    """Draining while a lease is out, gone with closed connections when it is back."""
    rig = Rig()
    worker = rig.add()
    lease = Lease(worker, 0)
    async with rig.running():
        rig.drain.start(worker, "asked")
        await _a_few_rounds()
        assert (State.DRAINING, "draining: asked") == (worker.state, worker.state_reason)
        assert rig.registry.get(worker.id) is worker
        lease.release()
        await rig.until_gone(worker)
    assert ([], ["drained"]) == (rig.ended, rig.logged)
    assert rig.registry.why_removed(worker.id) == "drained"


async def test_kv_cache_that_is_to_be_fetched_keeps_the_worker() -> None:
    """A computed prefill is no load, and the worker stays until decode has its KV cache."""
    rig = Rig()
    worker = rig.add()
    lease = Lease(worker, 0)
    lease.hold()
    async with rig.running():
        rig.drain.start(worker, "asked")
        await _a_few_rounds()
        assert (worker.load, worker.state) == (0, State.DRAINING)
        lease.release()
        await rig.until_gone(worker)


async def test_open_call_keeps_the_worker() -> None:
    """A leg that no request waits for any more ends before its connection is closed."""
    rig = Rig(n_open=1)
    worker = rig.add()
    async with rig.running():
        rig.drain.start(worker, "asked")
        await _a_few_rounds()
        assert worker.state is State.DRAINING
        rig.n_open = 0
        await rig.until_gone(worker)


async def test_deadline_ends_what_runs() -> None:
    """The legs are ended once, and the worker goes when the requests have said so."""
    rig = Rig()
    worker = rig.add()
    lease = Lease(worker, 0)
    async with rig.running():
        rig.drain.start(worker, "asked")
        rig.drain.start(worker, "asked again")
        rig.now_s = 599.0
        await _a_few_rounds()
        assert rig.ended == []
        rig.now_s = 600.0
        await _a_few_rounds()
        assert (rig.ended, worker.state) == ([worker.spec.url], State.DRAINING)
        lease.release()
        await rig.until_gone(worker)
    assert rig.logged == ["removed at the end of its drain time: 2 ended"]


async def test_request_that_does_not_end_is_not_waited_for() -> None:
    """Gone 2 s after its legs were ended, though a client takes nothing and keeps its lease."""
    rig = Rig()
    worker = rig.add()
    Lease(worker, 0)
    async with rig.running():
        rig.drain.start(worker, "asked", is_forced=True)
        rig.now_s = 1.9
        await _a_few_rounds()
        assert worker.state is State.DRAINING
        rig.now_s = 2.0
        await rig.until_gone(worker)
    assert rig.logged == ["removed by force: 2 ended"]


async def test_force_ends_what_runs_at_once() -> None:
    """The legs are ended by the call itself, and only once; also when it drains already."""
    rig = Rig()
    worker = rig.add()
    lease = Lease(worker, 0)
    rig.on_end = lease.release
    async with rig.running():
        rig.drain.start(worker, "asked")
        assert rig.ended == []
        rig.drain.start(worker, "asked", is_forced=True)
        rig.drain.start(worker, "asked", is_forced=True)
        assert rig.ended == [worker.spec.url]
        await rig.until_gone(worker)
    assert rig.logged == ["removed by force: 2 ended"]


async def test_another_time_counts_from_now() -> None:
    """Without one the first deadline stays; with one it is the new one."""
    rig = Rig()
    worker = rig.add()
    Lease(worker, 0)
    rig.drain.start(worker, "asked", timeout_s=30)
    progress = rig.drain.progress(worker)
    assert progress is not None
    assert (0.0, 30.0) == (progress.since_s, progress.deadline_s)
    rig.now_s = 10.0
    rig.drain.start(worker, "asked")
    assert progress.deadline_s == 30.0
    rig.drain.start(worker, "asked", timeout_s=5)
    assert (0.0, 15.0) == (progress.since_s, progress.deadline_s)


async def test_joining_worker_is_gone_at_once() -> None:
    """Nothing to wait for: GONE before the call returns, its connections closed soon."""
    rig = Rig()
    worker = rig.add(State.JOINING)
    async with rig.running():
        rig.drain.start(worker, "asked")
        assert (State.GONE, None) == (worker.state, rig.drain.progress(worker))
        await rig.until_gone(worker)
        rig.drain.start(worker, "asked again")
        await _a_few_rounds()
    assert rig.dropped == [worker.spec.url]
    assert rig.registry.why_removed(worker.id) == "removed before it was ready: asked"


async def test_worker_that_cannot_be_closed_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are gone though the connections of neither can be closed."""
    monkeypatch.setattr(drain_module, "CLOSE_LIMIT_S", 0.05)
    rig = Rig(drop_hangs=True)
    workers = [rig.add(), rig.add()]
    async with rig.running():
        for worker in workers:
            rig.drain.start(worker, "asked")
        for worker in workers:
            await rig.until_gone(worker)
        await asyncio.sleep(0.2)
    assert rig.logged == ["drained", "drained", "not_closed", "not_closed"]
