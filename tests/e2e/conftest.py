"""What the end-to-end suite runs against: simulated workers, or any gateway that is up.

Without options simulated pairs, SGLang and vLLM with either connector, are started here, each with
a gateway. With ``--gateway-url``
(and ``--worker-urls``, where the workers' own load counters are read) it runs against that one;
``make test-engines`` does so with real workers. A test without a marker is for every engine;
``engine`` names those that a test is for, ``real`` says that it needs real workers.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.sim import SglangSim, VllmSim
from tests.e2e.loads import BUSY_WITHIN_S, Workers
from tests.e2e.simulated import ENGINES, READY_WITHIN_S, Fleet, Real, Simulated


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options that name a gateway which is already up."""
    group = parser.getgroup("end-to-end suite")
    group.addoption("--gateway-url", help="run against this gateway, with real workers behind it")
    group.addoption("--worker-urls", default="", help="its workers, separated by spaces")
    group.addoption("--engine", choices=ENGINES, default=ENGINES[0], help="what they are")
    group.addoption("--engine-run", default="", help="folder with the workers' logs")
    group.addoption("--engine-model", default="", help="folder of the model")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test once against each engine that is there and that its markers allow."""
    if "fleet" not in metafunc.fixturenames:
        return
    is_real = bool(metafunc.config.getoption("--gateway-url", default=None))
    there = (metafunc.config.getoption("--engine"),) if is_real else ENGINES
    needs_real = metafunc.definition.get_closest_marker("real") is not None
    marker = metafunc.definition.get_closest_marker("engine")
    wanted = () if marker is None else marker.args
    engines = [
        engine
        for engine in there
        if (is_real or not needs_real)
        and (not wanted or engine in wanted or engine.split("-")[0] in wanted)
    ]
    # A test that is for none of them is dropped below.
    metafunc.parametrize("fleet", engines or [None], indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops the tests that are for none of the engines which are there."""
    dropped = [item for item in items if _engine(item, "any") is None]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _engine(item: pytest.Item, default: str) -> Any:
    call: Any = getattr(item, "callspec", None)
    return default if call is None else call.params.get("fleet", default)


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The gateway under test, ready to serve."""
    config, engine = request.config, str(request.param)
    given = config.getoption("--gateway-url", default=None)
    if given:
        workers = str(config.getoption("--worker-urls", default="")).split()
        if not workers:
            pytest.exit("--gateway-url needs --worker-urls: the suite reads the workers' counters")
        real = Real(
            Path(str(config.getoption("--engine-run"))),
            Path(str(config.getoption("--engine-model"))),
        )
        found = Fleet(engine, str(given).rstrip("/"), tuple(workers), real=real)
        _wait_until_ready(found.gateway_url)
        yield found
        return
    simulated = Simulated(engine)
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
def engine(fleet: Fleet) -> str:
    """The kind of workers: sglang, vllm-nixl or vllm-mooncake."""
    return fleet.engine


@pytest.fixture(scope="session")
def sims(fleet: Fleet) -> tuple[SglangSim | VllmSim, ...]:
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


@pytest.fixture
async def workers(fleet: Fleet) -> AsyncIterator[Workers]:
    """The workers' counters, at rest before the test."""
    async with Workers(fleet.worker_urls) as watched:
        await watched.until_idle(BUSY_WITHIN_S)
        yield watched
