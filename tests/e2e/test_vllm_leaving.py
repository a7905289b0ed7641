"""A client that leaves real vLLM workers, at each stage of the handoff: no block stays behind.

And nobody waits for a block: Mooncake's prefill worker can answer twenty asks at a time, and one
for blocks that do not come keeps its place until it times out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.settings import PrefillUrl, Settings
from tests.e2e.gate import Gate
from tests.e2e.loads import BUSY_WITHIN_S, VllmCounter, Workers
from tests.e2e.simulated import Fleet, serving

pytestmark = [pytest.mark.engine("vllm"), pytest.mark.real]

FREE_WITHIN_S = 2.0
PREFILL_WITHIN_S = 30.0
"""The long prompt takes 2 s on an idle core; an engine ends a step that it has begun."""
LEASE_S = 30.0
"""Of both connectors, see ``tests/engines/start-vllm.sh``."""
OVERDUE = (
    "Releasing expired KV blocks",
    "Freeing its blocks on the producer side",
    "Timeout waiting for P side ready",
)
"""What prefill says when nobody came for blocks (NIXL, Mooncake) or blocks did not come."""
SHORT = "Tell a long story."
N_LONG_WORDS = 300
_numbers = count(1)


@dataclass
class Stage:
    """A gateway of its own in front of the real workers, with a gate before decode."""

    http: httpx.AsyncClient
    gate: Gate
    prefill: VllmCounter
    decode: VllmCounter
    model: str

    @asynccontextmanager
    async def asking(self, prompt: str) -> AsyncIterator[None]:
        """Asks for a long answer; at the end of the block the client leaves."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": 500,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self.gate.watch()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._read(body))
            yield
            assert not asked.done()
            asked.cancel()

    async def _read(self, body: dict[str, Any]) -> None:
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                pass

    async def take_a_step(self) -> None:
        """Has both workers do something short, so that their counters are not of an older step."""
        body = {"model": self.model, "prompt": SHORT, "max_tokens": 2, "ignore_eos": True}
        (await self.http.post("/v1/completions", json=body)).raise_for_status()

    async def until_handed_over(self) -> None:
        """Waits until the decode leg has come to the gate."""
        async with asyncio.timeout(PREFILL_WITHIN_S):
            await self.gate.has_handoff.wait()

    async def until_busy(self) -> None:
        """Waits until decode has a request."""
        async with asyncio.timeout(BUSY_WITHIN_S):
            while not await self.decode.n_requests():  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.02)

    async def until_free(self, within_s: float = FREE_WITHIN_S) -> float:
        """Waits until neither worker holds a request or a block; returns the seconds it took."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while True:
            held = [
                count
                for worker in (self.prefill, self.decode)
                for count in (await worker.n_requests(), await worker.n_used_tokens())
            ]
            waited_s = loop.time() - start_s
            if not any(held):
                return waited_s
            assert waited_s < within_s, f"requests and tokens of P, D: {held}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def staged(fleet: Fleet, model: str) -> AsyncIterator[Stage]:
    """The workers behind a gate; every block is free before the test."""
    assert fleet.real is not None
    prefill_url, decode_url = fleet.worker_urls
    place = urlsplit(decode_url)
    gate = Gate(str(place.hostname), int(place.port or 0))
    async with gate.listening() as address, Workers(fleet.worker_urls) as workers:
        settings = Settings(
            prefill=(PrefillUrl(prefill_url, bootstrap_port(fleet)),),
            decode=(f"grpc://{address}",),
            model_path=str(fleet.real.model),
            log_level="error",
        )
        async with (
            serving(settings) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=60.0) as http,
        ):
            async with asyncio.timeout(10.0):
                while (await http.get("/readiness")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            prefill, decode = workers.each
            assert isinstance(prefill, VllmCounter)
            assert isinstance(decode, VllmCounter)
            stage = Stage(http, gate, prefill, decode, model)
            await stage.until_free()
            yield stage


async def leave_prefill(stage: Stage) -> None:
    """Prefill computes; decode never hears of it."""
    # Another one each time, or prefill would find it in its cache.
    first = next(_numbers) * N_LONG_WORDS
    async with stage.asking(" ".join(f"word{first + i}" for i in range(N_LONG_WORDS))):
        await asyncio.sleep(0.3)
    await asyncio.sleep(0.5)
    assert not stage.gate.has_handoff.is_set()
    async with asyncio.timeout(PREFILL_WITHIN_S):
        await stage.take_a_step()


async def leave_handoff(stage: Stage) -> None:
    """Prefill keeps blocks for a decode leg that is on its way."""
    stage.gate.hold()
    async with stage.asking(SHORT):
        await stage.until_handed_over()
        async with asyncio.timeout(BUSY_WITHIN_S):
            while not await stage.prefill.n_used_tokens():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    stage.gate.open()


async def leave_loading(stage: Stage) -> None:
    """Decode loads the KV cache, or is about to: at five moments."""
    for delay_s in (0.0, 0.005, 0.01, 0.02, 0.04):
        async with stage.asking(SHORT):
            await stage.until_handed_over()
            await asyncio.sleep(delay_s)
        await stage.until_free()


async def leave_stream(stage: Stage) -> None:
    """Decode writes."""
    async with stage.asking(SHORT):
        await stage.until_busy()
        await asyncio.sleep(0.3)
        assert await stage.decode.n_used_tokens() > 0


STAGES = (leave_prefill, leave_handoff, leave_loading, leave_stream)


@pytest.mark.parametrize("leave", STAGES)
async def test_blocks_are_free_soon(
    fleet: Fleet, model: str, leave: Callable[[Stage], Awaitable[None]]
) -> None:
    """No request and no block is left two seconds after the client."""
    async with staged(fleet, model) as stage:
        await leave(stage)
        took_s = await stage.until_free()
        print(f"{leave.__name__}: all blocks free after {took_s:.2f} s")


@pytest.mark.timeout(LEASE_S + 90)
async def test_no_lease_ends(fleet: Fleet, model: str) -> None:
    """A lease after all of that, prefill has not had to free a block or drop an ask by itself."""
    async with staged(fleet, model) as stage:
        # Nor one that an earlier test left behind: its lease ends here, too.
        n_before = n_overdue(fleet)
        for leave in STAGES:
            await leave(stage)
            await stage.until_free()
        await asyncio.sleep(LEASE_S + 2)
        # A worker that is idle looks at its leases no more.
        await stage.take_a_step()
        assert n_overdue(fleet) == n_before


def n_overdue(fleet: Fleet) -> int:
    """How often prefill has given something up so far."""
    assert fleet.real is not None
    path = fleet.real.run / "prefill-0.log"
    text = path.read_text(encoding="utf-8", errors="replace")
    return sum(text.count(line) for line in OVERDUE)


def bootstrap_port(fleet: Fleet) -> int | None:
    """Mooncake's port on the prefill worker; it stands behind its URL in ``urls``."""
    assert fleet.real is not None
    words = (fleet.real.run / "urls").read_text(encoding="utf-8").splitlines()[0].split()
    return int(words[2]) if len(words) > 2 else None
