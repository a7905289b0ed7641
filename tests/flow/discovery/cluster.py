"""A gateway that looks for pods, an API server on HTTP, and simulated workers that wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sim.server import QUICK
from app.workers.pod_watch import PodWatch
from tests.flow.fleet import Fleet, until
from tests.flow.pod_api import PodServer, pod, write_kubeconfig

SLOW: dict[str, Any] = {**QUICK, "decode_step_s": 0.02}
PREFILL, DECODE = {"app": "llm", "role": "prefill"}, {"app": "llm", "role": "decode"}


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


async def with_pair(cluster: Cluster) -> None:
    """Have both pods found."""
    cluster.api.put(cluster.pod_of(cluster.prefill, "p-0"))
    cluster.api.put(cluster.pod_of(cluster.decode, "d-0"))
    await cluster.found(cluster.prefill, cluster.decode)
