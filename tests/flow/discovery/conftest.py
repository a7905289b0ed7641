"""What the tests of discovery share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from app.sim import SglangSim, SimConfig
from app.workers import discovery, pod_watch
from tests.flow.discovery.cluster import SLOW, Cluster, settings
from tests.flow.fleet import serving, until
from tests.flow.pod_api import pod_server


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of production are for clusters, not for tests."""
    monkeypatch.setattr(discovery, "SETTLE_S", 0.01)
    monkeypatch.setattr(discovery, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr(pod_watch, "FIRST_RETRY_S", 0.05)


@pytest.fixture
async def cluster(stack: AsyncExitStack, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Everything runs, and no pod is there yet."""
    api = await stack.enter_async_context(pod_server())
    pair = [
        await stack.enter_async_context(SglangSim(replace(SimConfig(role=role), **SLOW)))
        for role in ("prefill", "decode")
    ]
    fleet = await stack.enter_async_context(serving([], [], **settings(api, tmp_path)))
    yield Cluster(fleet, api, *pair)
    # Connections of the API server are tasks of this loop too; once it is watched none is made.
    await until(lambda: api.n_watching == 1)
    await fleet.ready()
