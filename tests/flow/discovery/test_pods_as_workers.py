"""Workers found among pods: what joins, what leaves, and what serves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import pytest

from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from app.workers.states import State
from tests.flow import vllm_fleet
from tests.flow.discovery.cluster import DECODE, Cluster, settings, with_pair
from tests.flow.fleet import COMPLETIONS, body_of, serving, until
from tests.flow.pod_api import pod, pod_server
from tests.flow.process import free_port


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
    # By the pod's uid: every replica of the gateway has the same one.
    assert cluster.fleet.live(cluster.prefill).id == str(
        uuid5(NAMESPACE_URL, f"uid-of-p-0 {cluster.prefill.url}")
    )
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


async def test_a_pod_whose_engine_does_not_answer_yet(
    cluster: Cluster, stack: AsyncExitStack
) -> None:
    """Ready, it says, and nobody listens: it is asked again until somebody does."""
    port = free_port()
    annotations = {"tandem-gateway/worker-ports": str(port)}
    cluster.api.put(pod("late", labels=DECODE, annotations=annotations))
    await until(lambda: len(cluster.watch.pods) == 1)
    await asyncio.sleep(0.3)
    assert cluster.states() == {}
    late = SglangSim(replace(SimConfig(role="decode", port=port), **QUICK))
    await stack.enter_async_context(late)
    await cluster.found(late)


async def test_pods_where_no_worker_may_be(stack: AsyncExitStack, tmp_path: Path) -> None:
    """The list of allowed hosts holds for pods too."""
    api = await stack.enter_async_context(pod_server())
    sim = await stack.enter_async_context(SglangSim(replace(SimConfig(role="decode"), **QUICK)))
    asked = settings(api, tmp_path) | {"worker_url_allow": ("10.0.0.0/8",)}
    fleet = await stack.enter_async_context(serving([], [], **asked))
    cluster = Cluster(fleet, api, None, sim)
    api.put(cluster.pod_of(sim, "d-0"))
    await until(lambda: len(cluster.watch.pods) == 1)
    await asyncio.sleep(0.3)
    assert cluster.states() == {}
    await fleet.ready()
