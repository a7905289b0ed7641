"""Legs for a worker that was removed in the meantime, and what its client knows of running ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from app.protocol.engine import EngineRequest, Sampling
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed, UpstreamError, WorkerRemoved
from app.upstream.http1 import encode_lines
from app.upstream.vllm_open_calls import OpenCalls
from app.workers.registry import Registry
from app.workers.worker import Role, Worker, WorkerSpec

REQUEST = EngineRequest("r", (1,), "", Sampling(max_tokens=1), stream=True)


def _removed(url: str) -> Worker:
    registry = Registry()
    return registry.remove(registry.add(WorkerSpec(url, Role.DECODE)).id)


async def test_no_leg_is_sent_to_a_removed_sglang_worker() -> None:
    """Nothing was sent, so another one may be tried; its abort calls still work; nothing stays."""
    clients = WorkerClients()
    worker = _removed("http://127.0.0.1:9")
    leg = clients.get(worker).leg(b"/generate", encode_lines([]), b"{}", silence_timeout_s=1)
    with pytest.raises(ConnectFailed, match="removed"):
        await leg.connect()
    assert not leg.sent
    leg.close()
    assert (clients._clients, clients.n_running(worker), clients.end(worker)) == ({}, 0, 0)


async def test_no_leg_is_sent_to_a_removed_vllm_worker() -> None:
    """The same; what it serves is not asked either, and no channel stays."""
    clients = WorkerClients()
    worker = _removed("grpc://127.0.0.1:9")
    call = clients.vllm(worker).generate(REQUEST)
    with pytest.raises(ConnectFailed, match="removed"):
        await call.connect()
    assert not call.sent
    call.cancel()
    with pytest.raises(ConnectFailed, match="removed"):
        await clients.vllm(worker).fresh_info()
    assert not (await clients.vllm(worker).probe()).ok
    assert (clients._vllm_clients, clients.take_heard(worker)) == ({}, False)


@dataclass(eq=False)
class _Call:
    """As much of a call as its worker's list of them needs."""

    sent: bool = True
    n_messages: int = 0
    failure: UpstreamError | None = None

    def fail(self, failure: UpstreamError) -> None:
        self.failure = failure


def test_messages_of_ended_calls_count() -> None:
    """Heard once for each new message, also when its call has ended since."""
    calls = OpenCalls()
    one: Any = _Call(n_messages=5)
    other: Any = _Call()
    calls.add(one)
    calls.add(other)
    assert (calls.take_heard(), calls.take_heard()) == (True, False)
    calls.discard(one)
    calls.discard(one)
    assert (calls.n_active, calls.take_heard()) == (1, False)
    other.n_messages = 1
    assert calls.take_heard()
    calls.discard(other)
    assert not calls.take_heard()


def test_running_calls_fail_by_how_far_they_came() -> None:
    """Removed in the middle, or before anything was sent."""
    calls = OpenCalls()
    sent: Any = _Call()
    unsent: Any = _Call(sent=False)
    calls.add(sent)
    calls.add(unsent)
    assert calls.fail_all() == 2
    assert isinstance(sent.failure, WorkerRemoved)
    assert isinstance(unsent.failure, ConnectFailed)
