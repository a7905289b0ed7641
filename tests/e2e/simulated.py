"""The fleets of the end-to-end suite: real ones are only named, simulated ones are started."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn

from app.main import create_app
from app.settings import PrefillUrl, Settings
from app.sim import SglangSim, VllmSim, sim_pair, vllm_pair
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.small_tokenizer import write_small_tokenizer

READY_WITHIN_S = 20.0
DECODE_STEP_S = 0.004
"""A simulated token; 2,000 of them outlast every test that leaves in the middle."""
ENGINES = ("sglang", "vllm-nixl", "vllm-mooncake")


@dataclass(frozen=True)
class Real:
    """What is known of real workers.

    Attributes:
        run: The folder with ``prefill-0.log`` and ``decode-0.log``.
        model: The folder of the model.
    """

    run: Path
    model: Path


@dataclass
class Fleet:
    """A gateway and its workers.

    Attributes:
        engine: One of ``ENGINES``.
        gateway_url: Without a trailing slash.
        worker_urls: Every worker behind it, prefill first.
        sims: The simulated workers, prefill first; empty for real ones.
        real: About real workers.
    """

    engine: str
    gateway_url: str
    worker_urls: tuple[str, ...]
    sims: tuple[SglangSim | VllmSim, ...] = ()
    real: Real | None = None


@dataclass
class Simulated:
    """A simulated pair and a gateway, in a thread with a loop of its own.

    One fleet serves all tests, whose own loops end with each test.
    """

    engine: str
    fleet: Fleet | None = None
    error: BaseException | None = None
    is_up: threading.Event = field(default_factory=threading.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """The thread's body."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - the thread's end is the test run's business
            self.error = error
        finally:
            self.is_up.set()

    def stop(self) -> None:
        """Asks the thread to end."""
        if self.loop is not None and self.loop.is_running():
            self.loop.call_soon_threadsafe(self.stopping.set)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            model = None
            if self.engine != "sglang":
                model = Path(stack.enter_context(TemporaryDirectory()))
                write_small_tokenizer(model)
            prefill, decode = await _pair(stack, self.engine, model)
            settings = Settings(
                prefill=(PrefillUrl(prefill.url, prefill.bootstrap_port),),
                decode=(decode.url,),
                model_path=None if model is None else str(model),
                log_level="error",
            )
            url = await stack.enter_async_context(serving(settings))
            self.fleet = Fleet(self.engine, url, (prefill.url, decode.url), (prefill, decode))
            self.is_up.set()
            await self.stopping.wait()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """A gateway in the running loop; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None)
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        while not server.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def _pair(
    stack: AsyncExitStack, engine: str, model: Path | None
) -> tuple[SglangSim | VllmSim, SglangSim | VllmSim]:
    """Starts a prefill and a decode worker; vLLM's with the leases of real ones."""
    pace: dict[str, Any] = {"decode_step_s": DECODE_STEP_S, "context_length": 8192}
    if model is None:
        return await stack.enter_async_context(sim_pair(**pace))
    pair = vllm_pair(
        engine.removeprefix("vllm-"),
        tokenizer=FolderTokenizer(model),
        lease_s=30.0,
        mooncake_abort_s=480.0,
        **pace,
    )
    return await stack.enter_async_context(pair)
