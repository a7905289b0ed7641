"""What the end-to-end suite runs against: simulated workers, or any gateway that is up.

Without options a simulated pair and the gateway are started here. With ``--gateway-url`` (and
``--worker-urls``, where the workers' own load counters are read) it runs against that one;
``make test-engines`` does so with real SGLang workers. No test is left out in either case.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest
import uvicorn

from app.main import create_app
from app.settings import PrefillUrl, Settings
from app.sim import SglangSim, sim_pair

READY_WITHIN_S = 20.0
DECODE_STEP_S = 0.004
"""A simulated token; 2,000 of them outlast every test that leaves in the middle."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options that name a gateway which is already up."""
    group = parser.getgroup("end-to-end suite")
    group.addoption("--gateway-url", help="run against this gateway, with real workers behind it")
    group.addoption("--worker-urls", default="", help="its workers, separated by spaces")


@dataclass
class Fleet:
    """A gateway and its workers.

    Attributes:
        gateway_url: Without a trailing slash.
        worker_urls: Every worker behind it.
        sims: The simulated workers, prefill first; empty for real ones.
    """

    gateway_url: str
    worker_urls: tuple[str, ...]
    sims: tuple[SglangSim, ...] = ()


@dataclass
class Simulated:
    """A simulated pair and a gateway, in a thread with a loop of its own.

    One fleet serves all tests, whose own loops end with each test.
    """

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
        async with sim_pair(decode_step_s=DECODE_STEP_S, context_length=8192) as (prefill, decode):
            settings = Settings(
                prefill=(PrefillUrl(prefill.url, prefill.bootstrap_port),),
                decode=(decode.url,),
                log_level="error",
            )
            server = uvicorn.Server(
                uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None)
            )
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(server.serve())
                while not server.started and not serving.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                port = server.servers[0].sockets[0].getsockname()[1]
                self.fleet = Fleet(
                    f"http://127.0.0.1:{port}", (prefill.url, decode.url), (prefill, decode)
                )
                self.is_up.set()
                await self.stopping.wait()
                server.should_exit = True


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The gateway under test, ready to serve."""
    given = request.config.getoption("--gateway-url", default=None)
    if given:
        workers = str(request.config.getoption("--worker-urls", default="")).split()
        if not workers:
            pytest.exit("--gateway-url needs --worker-urls: the suite reads the workers' counters")
        found = Fleet(str(given).rstrip("/"), tuple(workers))
        _wait_until_ready(found.gateway_url)
        yield found
        return
    simulated = Simulated()
    thread = threading.Thread(target=simulated.run, name="simulated fleet")
    thread.start()
    try:
        simulated.is_up.wait(READY_WITHIN_S)
        if simulated.fleet is None:
            raise RuntimeError("the simulated fleet did not start") from simulated.error
        _wait_until_ready(simulated.fleet.gateway_url)
        yield simulated.fleet
    finally:
        simulated.stop()
        thread.join(READY_WITHIN_S)
    if simulated.error is not None:
        raise RuntimeError("the simulated fleet ended with an error") from simulated.error


def _wait_until_ready(url: str) -> None:
    transport = httpx.HTTPTransport(retries=3)
    pause = threading.Event()
    with httpx.Client(transport=transport, trust_env=False, timeout=5.0) as client:
        text = ""
        for _ in range(int(READY_WITHIN_S / 0.1)):
            answer = client.get(f"{url}/readiness")
            if answer.status_code == 200:
                return
            text = answer.text
            pause.wait(0.1)
    raise RuntimeError(f"{url} is not ready after {READY_WITHIN_S} s: {text}")


@pytest.fixture(scope="session")
def gateway_url(fleet: Fleet) -> str:
    """The gateway's base URL."""
    return fleet.gateway_url


@pytest.fixture(scope="session")
def worker_urls(fleet: Fleet) -> tuple[str, ...]:
    """Every worker's base URL."""
    return fleet.worker_urls


@pytest.fixture(scope="session")
def sims(fleet: Fleet) -> tuple[SglangSim, ...]:
    """The simulated workers, prefill first; empty when the workers are real."""
    return fleet.sims


@pytest.fixture(scope="session")
def model(gateway_url: str) -> str:
    """The first model that the gateway lists."""
    with httpx.Client(trust_env=False) as client:
        listed = client.get(f"{gateway_url}/v1/models").raise_for_status().json()
    return str(listed["data"][0]["id"])


@pytest.fixture
async def client(gateway_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, without its own retries."""
    async with openai.AsyncOpenAI(
        base_url=f"{gateway_url}/v1",
        api_key="unused",
        max_retries=0,
        timeout=60.0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
        yield client


@pytest.fixture
async def http(gateway_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=gateway_url, trust_env=False, timeout=60.0) as client:
        yield client
