"""Workers found among pods: a whole gateway, an API server on HTTP, and simulated workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from app.workers import discovery, pod_watch
from app.workers.pod_watch import PodWatch
from app.workers.states import State
from tests.flow import vllm_fleet
from tests.flow.fleet import COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.pod_api import PodServer, pod, pod_server, write_kubeconfig

SLOW: dict[str, Any] = {**QUICK, "decode_step_s": 0.02}
PREFILL, DECODE = {"app": "llm", "role": "prefill"}, {"app": "llm", "role": "decode"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of production are for clusters, not for tests."""
    monkeypatch.setattr(discovery, "SETTLE_S", 0.01)
    monkeypatch.setattr(discovery, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr(pod_watch, "FIRST_RETRY_S", 0.05)


@dataclass
class Cluster:
    """A gateway that found nobody yet, the API server, and a pair that waits to be found."""

    fleet: Fleet
    api: PodServer
    prefill: Any
    decode: Any

    @property
    def watch(self) -> PodWatch:
        """What the gateway knows of the pods."""
        found = self.fleet.gateway.discovery
        assert found is not None
        return found.loop.watch

    def pod_of(self, worker: Any, name: str, **more: Any) -> dict[str, Any]:
        """The pod that a worker runs in."""
        port = worker.url.rpartition(":")[2]
        annotations = {"tandem-gateway/worker-ports": port}
        if worker is self.prefill:
            annotations["sglang.ai/bootstrap-port"] = str(worker.bootstrap_port)
        labels = (PREFILL if worker is self.prefill else DECODE) | more.pop("labels", {})
        return pod(name, labels=labels, annotations=annotations, **more)

    def states(self) -> dict[str, str]:
        """State by URL."""
        return {w.spec.url: str(w.state) for w in self.fleet.gateway.registry.workers()}

    async def found(self, *workers: Any) -> None:
        """Wait until exactly these are ready."""
        wanted = {worker.url: "ready" for worker in workers}
        await until(lambda: self.states() == wanted, self.states)
        await self.fleet.ready()


def settings(api: PodServer, folder: Path) -> dict[str, Any]:
    """Those of a gateway that looks for a pair."""
    return {
        "service_discovery": True,
        "prefill_selector": ("app=llm", "role=prefill"),
        "decode_selector": ("app=llm", "role=decode"),
        "service_discovery_namespace": "llm",
        "kubeconfig": write_kubeconfig(api, folder / "kubeconfig"),
    }


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


async def with_pair(cluster: Cluster) -> None:
    """Have both pods found."""
    cluster.api.put(cluster.pod_of(cluster.prefill, "p-0"))
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0"))
    await cluster.found(cluster.prefill, cluster.decode)


async def test_pods_become_workers_that_serve(cluster: Cluster) -> None:
    """Role, bootstrap port, scheme and labels come from the pod; a request uses the pair."""
    cluster.api.put(
        cluster.pod_of(cluster.prefill, "p-0", labels={"tandem-gateway/pairing": "blue"})
    )
    cluster.api.put(
        cluster.pod_of(cluster.decode, "d-0", labels={"tandem-gateway/pairing": "blue"})
    )
    await cluster.found(cluster.prefill, cluster.decode)

    got = await cluster.fleet.ask(COMPLETIONS, body_of(COMPLETIONS))

    assert got.status == 200
    (seen,) = cluster.decode.seen
    assert seen.body["bootstrap_port"] == cluster.prefill.bootstrap_port
    labels = cluster.fleet.live(cluster.prefill).spec.labels
    assert labels == {
        "pairing": "blue",
        "smg.ai/pod-name": "p-0",
        "smg.ai/pod-uid": "uid-of-p-0",
        "pod-namespace": "llm",
    }
    (listed,) = cluster.api.lists
    assert listed["path"] == "/api/v1/namespaces/llm/pods"
    assert listed["labelSelector"] == "app=llm"
    assert listed["authorization"] == "Bearer secret-token"


async def test_a_pod_is_added_when_it_is_ready_and_stays_when_it_is_not(cluster: Cluster) -> None:
    """Afterwards the gateway's own probes judge it."""
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0", ready=False))
    cluster.api.put(cluster.pod_of(cluster.prefill, "p-0"))
    await cluster.found(cluster.prefill)
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0"))
    await cluster.found(cluster.prefill, cluster.decode)
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0", ready=False))
    cluster.api.put(pod("other"))
    await until(lambda: len(cluster.watch.pods) == 3)
    await cluster.found(cluster.prefill, cluster.decode)


async def test_a_deleted_pod_is_drained_for_its_grace_time(cluster: Cluster) -> None:
    """A running request ends whole; then the worker is gone, before its pod is."""
    await with_pair(cluster)
    body = body_of(COMPLETIONS, stream=True, n_tokens=20)

    async def delete() -> None:
        await until(lambda: cluster.decode.n_active)
        cluster.api.mark_deleted("d-0", 30)
        worker = cluster.fleet.live(cluster.decode)
        await until(lambda: worker.state is State.DRAINING)
        progress = cluster.fleet.gateway.drain.progress(worker)
        assert progress is not None
        assert progress.deadline_s - progress.since_s == pytest.approx(29.0)

    got = await cluster.fleet.during(cluster.fleet.ask(COMPLETIONS, body), delete())
    assert got.events[-1] == "[DONE]"
    await cluster.found(cluster.prefill)
    cluster.api.remove("d-0")
    await until(lambda: "uid-of-d-0" not in cluster.watch.pods)
    await cluster.found(cluster.prefill)


@pytest.mark.parametrize("ending", ["gone", "Failed", "relabelled"])
async def test_pods_that_leave(cluster: Cluster, ending: str) -> None:
    """A pod that is gone, over, or somebody else's."""
    await with_pair(cluster)
    if ending == "gone":
        cluster.api.remove("d-0")
    elif ending == "Failed":
        cluster.api.put(cluster.pod_of(cluster.decode, "d-0", phase="Failed"))
    else:
        cluster.api.put(cluster.pod_of(cluster.decode, "d-0", labels={"role": "spare"}))
    await cluster.found(cluster.prefill)


async def test_a_new_pod_at_an_old_place_takes_over(cluster: Cluster) -> None:
    """Same address, another uid: the worker of the old one goes first."""
    await with_pair(cluster)
    first = cluster.fleet.live(cluster.decode).id
    cluster.api.remove("d-0")
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0", uid="another"))
    await until(lambda: first not in {w.id for w in cluster.fleet.gateway.registry.workers()})
    await cluster.found(cluster.prefill, cluster.decode)
    assert cluster.fleet.live(cluster.decode).spec.labels["smg.ai/pod-uid"] == "another"


async def test_workers_of_the_api_are_left_alone(cluster: Cluster) -> None:
    """Discovery neither removes nor takes over what was added by hand."""
    added = {"url": cluster.decode.url, "worker_type": "decode"}
    assert (await cluster.fleet.http.post("/workers", json=added)).status_code == 202
    await with_pair(cluster)
    assert "smg.ai/pod-uid" not in cluster.fleet.live(cluster.decode).spec.labels
    cluster.api.remove("d-0")
    cluster.api.remove("p-0")
    await cluster.found(cluster.decode)


async def test_a_broken_watch_is_taken_up_where_it_broke(cluster: Cluster) -> None:
    """Also when it broke inside an event; nothing is listed again."""
    await with_pair(cluster)
    at = cluster.api.version
    cluster.api.cut(inside_an_event=True)
    await until(lambda: len(cluster.api.watches) == 2)
    assert cluster.api.watches[1]["resourceVersion"] == str(at)
    cluster.api.bookmark()
    cluster.api.remove("d-0")
    await cluster.found(cluster.prefill)
    cluster.api.cut()
    await until(lambda: len(cluster.api.watches) == 3)
    assert cluster.api.watches[2]["resourceVersion"] == str(cluster.api.version)
    assert len(cluster.api.lists) == 1


async def test_a_bookmark_moves_the_place_to_resume(cluster: Cluster) -> None:
    await with_pair(cluster)
    cluster.api.bookmark()
    at = cluster.api.version
    await until(lambda: cluster.api.n_watching == 1)
    cluster.api.cut()
    await until(lambda: len(cluster.api.watches) == 2)
    assert cluster.api.watches[1]["resourceVersion"] == str(at)
    assert cluster.api.watches[1]["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("told", ["by an event", "by a status"])
async def test_410_lists_anew(cluster: Cluster, told: str) -> None:
    """What left without an event is found missing in the new list."""
    await with_pair(cluster)
    cluster.api.forget_quietly("d-0")
    if told == "by a status":
        cluster.api.oldest = cluster.api.version = cluster.api.version + 1
        cluster.api.cut()
    else:
        cluster.api.expire()
    await cluster.found(cluster.prefill)
    assert len(cluster.api.lists) == 2
    if told == "by an event":
        (_, resumed) = cluster.api.watches
        assert int(resumed["resourceVersion"]) >= cluster.api.oldest


async def test_an_api_that_refuses_takes_no_worker_away(cluster: Cluster) -> None:
    """What was known stays and serves; it goes on when the API does."""
    await with_pair(cluster)
    cluster.api.refusal = 500
    cluster.api.cut()
    n_seen = len(cluster.api.seen)
    await until(lambda: len(cluster.api.seen) >= n_seen + 2)
    assert (await cluster.fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    cluster.api.refusal = None
    cluster.api.remove("d-0")
    await cluster.found(cluster.prefill)


async def test_pages(cluster: Cluster) -> None:
    """A long list comes in parts, and counts as one."""
    cluster.api.page_size = 2
    for i in range(4):
        cluster.api.put(pod(f"noise-{i}", labels={"app": "llm"}))
    cluster.api.expire()
    await with_pair(cluster)
    await until(lambda: len(cluster.watch.pods) == 6)
    n_lists = len(cluster.api.lists)
    cluster.api.expire()
    await until(lambda: len(cluster.api.lists) > n_lists)
    await until(
        lambda: [q["continue"] for q in cluster.api.seen if "continue" in q][-2:] == ["2", "4"]
    )
    await cluster.found(cluster.prefill, cluster.decode)


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
async def test_vllm_pods(
    stack: AsyncExitStack, tmp_path: Path, model: Path, connector: str
) -> None:
    """That they speak gRPC is found out by asking them."""
    api = await stack.enter_async_context(pod_server())
    pair = [
        await stack.enter_async_context(vllm_fleet.sim(role, model, connector))
        for role in ("prefill", "decode")
    ]
    asked = settings(api, tmp_path) | {"model_path": str(model)}
    fleet = await stack.enter_async_context(vllm_fleet.serving([], [], **asked))
    fleet.prefills, fleet.decodes = pair[:1], pair[1:]
    cluster = Cluster(fleet, api, *pair)
    await with_pair(cluster)
    got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))
    assert got.status == 200
    assert len(pair[0].seen) == len(pair[1].seen) == 1
