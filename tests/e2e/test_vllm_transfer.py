"""The KV cache really moves from prefill to decode, as the workers themselves tell it."""

from __future__ import annotations

import asyncio
import re

import openai
import pytest

from tests.e2e.loads import VllmCounter, Workers
from tests.e2e.simulated import Fleet

pytestmark = [pytest.mark.engine("vllm"), pytest.mark.real]

N_MOVED = 8
N_OUTPUTS = 64
"""So many first outputs GetLoads' cache hit rate looks back (servicer 0.14.1)."""
TOLD_WITHIN_S = 5.0
_MOVED = re.compile(r"KV Transfer metrics:.*?Num successful transfers=(\d+)")
_FAILED = re.compile(r"Num failed transfers=(\d+)")
_EXTERNAL = re.compile(r"External prefix cache hit rate: ([\d.]+)%")


class Log:
    """What a worker writes from now on."""

    def __init__(self, fleet: Fleet, worker: str) -> None:
        assert fleet.real is not None
        self._path = fleet.real.run / f"{worker}.log"
        self._n_before = len(self.whole)

    @property
    def whole(self) -> str:
        """All of it, since the worker's start."""
        return self._path.read_text(encoding="utf-8", errors="replace")

    @property
    def new(self) -> str:
        """What has been added."""
        return self.whole[self._n_before :]

    def count(self, pattern: re.Pattern[str]) -> int:
        """The sum of a number in the new lines."""
        return sum(map(int, pattern.findall(self.new)))


async def ask(client: openai.AsyncOpenAI, model: str, number: int) -> None:
    """Asks for two tokens on a prompt of its own."""
    prompt = f"{number} bottles stand on the wall. If one of them falls, there are"
    await client.completions.create(
        model=model, prompt=prompt, max_tokens=2, temperature=0, extra_body={"ignore_eos": True}
    )


async def test_each_request_is_moved(
    client: openai.AsyncOpenAI, model: str, fleet: Fleet, engine: str
) -> None:
    """Eight requests are eight transfers, none of which failed; decode's prompts came with them.

    With NIXL decode reads and counts, with Mooncake prefill sends and counts.
    """
    # What came before is told within two of the log's intervals of a second.
    await asyncio.sleep(2.5)
    decode = Log(fleet, "decode-0")
    mover = decode if engine == "vllm-nixl" else Log(fleet, "prefill-0")
    for number in range(N_MOVED):
        await ask(client, model, number)
    async with asyncio.timeout(TOLD_WITHIN_S):
        while mover.count(_MOVED) < N_MOVED or not _EXTERNAL.search(decode.new):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (mover.count(_MOVED), mover.count(_FAILED)) == (N_MOVED, 0)
    if engine == "vllm-nixl":
        assert "NIXL compatibility check passed" in decode.whole
        assert "Transfer plan: TransferTopology(" in decode.whole
    rate = float(_EXTERNAL.findall(decode.new)[-1])
    # Over all requests of late; those with prompt logprobs are not moved.
    assert rate > 90
    print(f"{N_MOVED} transfers; external prefix cache hit rate {rate} %")


@pytest.mark.engine("vllm-mooncake")
async def test_decode_finds_every_prompt_token(
    client: openai.AsyncOpenAI, model: str, fleet: Fleet
) -> None:
    """With Mooncake decode counts what it was sent as cached: all of it, over 64 requests.

    With NIXL it says what prefill found in its own cache, which proves nothing.
    """
    async with Workers(fleet.worker_urls) as workers:
        prefill, decode = workers.each
        assert isinstance(prefill, VllmCounter)
        assert isinstance(decode, VllmCounter)
        for start in range(0, N_OUTPUTS, 8):
            async with asyncio.TaskGroup() as group:
                for number in range(start, start + 8):
                    group.create_task(ask(client, model, number))
        (of_prefill,), (of_decode,) = await prefill.loads(), await decode.loads()
    print(
        f"cached at prefill {of_prefill.cache_hit_rate:.3f}, decode {of_decode.cache_hit_rate:.3f}"
    )
    assert of_prefill.cache_hit_rate == 0
    assert of_decode.cache_hit_rate == 1
