"""Fleets of every engine and connector, for what must hold for all of them.

More workers may be started than the gateway is told of at first: they wait to be added.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from tests.flow import fleet as sglang_fleet
from tests.flow import vllm_fleet
from tests.flow.fleet import COMPLETIONS, Fleet, Got, body_of, until

KINDS = pytest.mark.parametrize("kind", ["sglang", "nixl", "mooncake"])
ROLES = pytest.mark.parametrize("role", ["prefill", "decode"])


async def start(stack: AsyncExitStack, kind: str, model: Path, role: Any, **config: Any) -> Any:
    """Starts one simulated worker."""
    if kind == "sglang":
        return await stack.enter_async_context(
            SglangSim(replace(SimConfig(role=role), **{**QUICK, **config}))
        )
    # A decode worker that is removed by force has no time for aborts. Mooncake's prefill worker
    # then waits for a second reader of blocks that are gone: not for longer than a test takes.
    config = {"mooncake_abort_s": 1.0} | config
    return await stack.enter_async_context(vllm_fleet.sim(role, model, kind, **config))


async def fleet_of(
    stack: AsyncExitStack,
    kind: str,
    model: Path,
    *,
    n_prefills: int = 1,
    n_decodes: int = 1,
    n_spare_decodes: int = 0,
    prefill: Mapping[str, Any] | None = None,
    decode: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[Any, list[Any]]:
    """A gateway before ready workers, and decode workers that it has not heard of."""
    prefills = [
        await start(stack, kind, model, "prefill", **(prefill or {})) for _ in range(n_prefills)
    ]
    decodes = [
        await start(stack, kind, model, "decode", **(decode or {}))
        for _ in range(n_decodes + n_spare_decodes)
    ]
    known, spare = decodes[:n_decodes], decodes[n_decodes:]
    fleet: Fleet
    if kind == "sglang":
        fleet = await stack.enter_async_context(sglang_fleet.serving(prefills, known, **settings))
    else:
        asked = {"model_path": str(model)} | settings
        fleet = await stack.enter_async_context(vllm_fleet.serving(prefills, known, **asked))
    fleet.decodes = decodes
    return fleet, spare


def new_worker(worker: Any, role: str) -> dict[str, Any]:
    """What POST /workers is told of a simulated worker."""
    body = {"url": worker.url, "worker_type": role}
    return body | ({"bootstrap_port": worker.bootstrap_port} if role == "prefill" else {})


async def remove(fleet: Fleet, worker: Any, query: str = "") -> str:
    """Asks for a worker's removal; returns its path."""
    path = f"/workers/{fleet.live(worker).spec.id}"
    answer = await fleet.http.delete(path + query)
    assert answer.status_code == 202, answer.text
    return path


async def until_gone(fleet: Fleet, path: str) -> str:
    """Waits until a worker is not shown any more; returns why."""
    async with asyncio.timeout(sglang_fleet.BOUND_S):
        while (answer := await fleet.http.get(path)).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    message: str = answer.json()["error"]["message"]
    return message.partition(": ")[2]


def is_busy(worker: Any) -> bool:
    """A request is in its engine."""
    return bool(worker.n_active)


@dataclass
class Load:
    """Streams that are begun one after the other by several clients, until it is stopped.

    Attributes:
        answers: Every one of them.
    """

    fleet: Fleet
    n_tokens: int
    answers: list[Got] = field(default_factory=list)
    is_over: bool = False

    async def client(self) -> None:
        """One client."""
        body = body_of(COMPLETIONS, stream=True, n_tokens=self.n_tokens)
        while not self.is_over:
            self.answers.append(await self.fleet.ask(COMPLETIONS, body))

    def check(self) -> None:
        """Nothing was lost, refused or cut."""
        assert self.answers
        for got in self.answers:
            assert got.status == 200, got.raw
            assert got.events[-1] == "[DONE]", got.raw
            # Of each token there is one event, and of vLLM's end another one.
            assert len(got.events) - 1 in (self.n_tokens, self.n_tokens + 1), got.raw


@asynccontextmanager
async def load(fleet: Fleet, *, n_clients: int = 6, n_tokens: int = 8) -> AsyncIterator[Load]:
    """Keeps a fleet busy, and afterwards looks at what the clients got."""
    made = Load(fleet, n_tokens)
    async with asyncio.TaskGroup() as group:
        for _ in range(n_clients):
            group.create_task(made.client())
        await until(lambda: made.answers)
        with contextlib.ExitStack() as end:
            end.callback(setattr, made, "is_over", True)
            yield made
    made.check()
